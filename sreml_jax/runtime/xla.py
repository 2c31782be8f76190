"""Options for XLA on CPU, which otherwise recomputes fused activations in every consumer.

The sums of a stage's shortcuts are then added again for every convolution and every transposed copy. A fusion
barrier prevents this, provided that the compiler does not drop barriers before it fuses.
"""

import jax
from jax import lax


def keep(x: jax.Array) -> jax.Array:
    """Returns x; on a CPU, behind a barrier that no fusion crosses."""
    return lax.optimization_barrier(x) if jax.default_backend() == 'cpu' else x


def compiler_options() -> dict[str, str]:
    """Returns options for `jax.jit` for a CPU: `keep` holds and vectors have full width; else {}."""
    if jax.default_backend() != 'cpu':
        return {}
    return {'xla_disable_hlo_passes': 'cse_barrier_expander', 'xla_cpu_prefer_vector_width': '512'}
