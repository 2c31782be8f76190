"""Barriers and options for XLA; on a GPU, the order of activations and whose products run.

A CPU's compiler computes fused activations again in every consumer: the sums of a stage's shortcuts are added
again for every convolution and every transposed copy. A fusion barrier prevents this, provided that the
compiler does not drop barriers before it fuses.
"""

from typing import TypeVar

import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

Arrays = TypeVar('Arrays')

# Options for `jax.jit`: a GPU multiplies by cuBLAS. For products in full float32, XLA would compile dozens of
# kernels of its own to time them, each for seconds. Other devices ignore the option.
BY_LIBRARY = {'xla_gpu_enable_triton_gemm': False}


def keep(x: Arrays) -> Arrays:
    """Returns x, an array or a tree of them; on a CPU, behind a barrier that no fusion crosses."""
    return lax.optimization_barrier(x) if jax.default_backend() == 'cpu' else x


def strided(x: jax.Array, stride: int) -> jax.Array:
    """Returns each stride-th row and column of x, [..., height, width, channels]; with stride 1, x itself.

    They are behind a barrier: XLA's GPU compiler, which would read them in a product's kernel, can end the
    process by that (jax 0.10.2).
    """
    return x if stride == 1 else lax.optimization_barrier(x[..., ::stride, ::stride, :])


def members_beside_channels(x: jax.Array) -> jax.Array:
    """Returns x, [members, images, height, width, channels]; on a GPU its memory has members before channels.

    cuDNN's grouped convolution takes the channels of all members as one axis. Matrix products read and write
    either order, so that with one order for the members' activations none is transposed. Arrays of another
    rank or of one member are returned as they are.
    """
    if x.ndim != 5 or len(x) == 1 or jax.default_backend() != 'gpu':
        return x
    return with_layout_constraint(x, Layout(major_to_minor=(1, 2, 3, 0, 4)))


def compiler_options() -> dict[str, str]:
    """Returns options for `jax.jit` for a CPU: `keep` holds and vectors have full width; else {}."""
    if jax.default_backend() != 'cpu':
        return {}
    return {'xla_disable_hlo_passes': 'cse_barrier_expander', 'xla_cpu_prefer_vector_width': '512'}
