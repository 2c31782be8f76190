"""Activations that a CPU computes once, though many products read them.

XLA's CPU compiler fuses what makes an activation into each of its readers: the sums of a stage's shortcuts
are added up again for every convolution and every transposed copy. A barrier keeps them apart, if the
compiler is told not to drop barriers before it fuses.
"""

import jax
from jax import lax


def keep(x: jax.Array) -> jax.Array:
    """Returns x, on a CPU behind a barrier that no fusion crosses."""
    return lax.optimization_barrier(x) if jax.default_backend() == 'cpu' else x


def compiler_options() -> dict[str, str]:
    """Returns what `jax.jit` needs for `keep` to hold; other devices keep their own way with barriers."""
    return {'xla_disable_hlo_passes': 'cse_barrier_expander'} if jax.default_backend() == 'cpu' else {}
