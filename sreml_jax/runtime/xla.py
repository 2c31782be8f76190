"""What XLA's CPU compiler is told, which left alone does a part of the work many times over.

It fuses what makes an activation into each of its readers: the sums of a stage's shortcuts are added up again
for every convolution and every transposed copy. A barrier keeps them apart, if the compiler is told not to
drop barriers before it fuses.
"""

import jax
from jax import lax


def keep(x: jax.Array) -> jax.Array:
    """Returns x, on a CPU behind a barrier that no fusion crosses."""
    return lax.optimization_barrier(x) if jax.default_backend() == 'cpu' else x


def compiler_options() -> dict[str, str]:
    """Returns options for `jax.jit`: `keep` holds, and vectors are as wide as the CPU's. None elsewhere."""
    if jax.default_backend() != 'cpu':
        return {}
    return {'xla_disable_hlo_passes': 'cse_barrier_expander', 'xla_cpu_prefer_vector_width': '512'}
