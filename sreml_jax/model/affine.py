"""x * factor + addend for each channel, with relu and a shortcut, and the moments of channels.

Training on a GPU mostly moves bytes, so these operations have derivatives of their own, which pass over the
activations as often as arithmetic demands. A mask of relu is computed again where it is needed: a masked
gradient would be written and read once more.

x is float32 [..., channels] or wider; `narrow` is the dtype of the convolution's output that x was made of,
and holds it exactly. Only that is kept for the backward pass. factor and addend are [channels] and, where a
gradient is taken, of x's dtype.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from sreml_jax.model.conv.moments import Moments, moments_of, values
from sreml_jax.runtime.sharding import agree


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def moments(x: jax.Array, known: Moments | None, narrow: DTypeLike) -> Moments:
    """Returns `moments_of` x, or those that are known already; with their derivative by x."""
    return moments_of(x) if known is None else known


def _moments_forward(x, known, narrow):
    return moments(x, known, narrow), x.astype(narrow)


def _moments_backward(narrow, x, gradients):
    mean, square = (gradient / values(x) for gradient in gradients)
    return mean + square * (2 * x.astype(mean.dtype)), None


moments.defvjp(_moments_forward, _moments_backward)


class Relu(NamedTuple):
    """relu(x * factor + addend + shortcut), before it is computed; the shortcut may be None."""

    x: jax.Array
    factor: jax.Array
    addend: jax.Array
    shortcut: jax.Array | None

    def result(self, dtype: DTypeLike) -> jax.Array:
        """Computes it: [..., channels] of `dtype`, which holds x exactly and is the shortcut's."""
        return relu(*self, dtype, dtype)


Input = jax.Array | Relu  # of a convolution


def computed(x: Input, dtype: DTypeLike | None) -> jax.Array:
    """Returns an array, or a relu's result of this dtype; None is x's own."""
    return x.result(dtype or x.x.dtype) if isinstance(x, Relu) else x


def relu(
    x: jax.Array,
    factor: jax.Array,
    addend: jax.Array,
    shortcut: jax.Array | None,
    narrow: DTypeLike,
    dtype: DTypeLike,
) -> jax.Array:
    """Returns relu(x * factor + addend + shortcut), [..., channels] of `dtype`; shortcut is the same."""
    if shortcut is None:
        return _relu(*agree(x, factor, addend), narrow, dtype)
    return _relu_of_sum(*agree(x, factor, addend, shortcut), narrow, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _relu(x, factor, addend, narrow, dtype):
    return jnp.maximum(x * factor + addend, 0).astype(dtype)


def _relu_forward(x, factor, addend, narrow, dtype):
    return _relu(x, factor, addend, narrow, dtype), (x.astype(narrow), factor, addend)


def _relu_backward(narrow, dtype, kept, dy):
    x, factor, addend = kept
    x, dy = x.astype(factor.dtype), dy.astype(factor.dtype)
    y = x * factor + addend
    of_addend, of_factor = _sums(jnp.where(y > 0, dy, 0), x)
    # Another comparison, as XLA would write the result of one that is used twice; they differ for NaN alone.
    return jnp.where(y <= 0, 0, dy) * factor, of_factor, of_addend


_relu.defvjp(_relu_forward, _relu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _relu_of_sum(x, factor, addend, shortcut, narrow, dtype):
    return jnp.maximum((x * factor + addend).astype(dtype) + shortcut, 0)


def _relu_of_sum_forward(x, factor, addend, shortcut, narrow, dtype):
    y = _relu_of_sum(x, factor, addend, shortcut, narrow, dtype)
    return y, (x.astype(narrow), factor, y)  # the next convolution keeps y too


def _relu_of_sum_backward(narrow, dtype, kept, dy):
    x, factor, y = kept
    masked = jnp.where(y > 0, dy, 0)
    wide = masked.astype(factor.dtype)
    of_addend, of_factor = _sums(wide, x.astype(factor.dtype))
    return wide * factor, of_factor, of_addend, masked


_relu_of_sum.defvjp(_relu_of_sum_forward, _relu_of_sum_backward)


def _sums(dy, x):
    """The sums over each channel of dy and of dy * x."""
    pixels = tuple(range(x.ndim - 1))
    return dy.sum(pixels), (dy * x).sum(pixels)
