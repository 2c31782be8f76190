"""The moments of a convolution's output, for the BatchNorm that follows."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Moments = tuple[jax.Array, jax.Array]


class Convolved(NamedTuple):
    """A convolution's output [..., channels], and its moments (see `moments_of`)."""

    output: jax.Array
    moments: Moments


def moments_of(x: jax.Array) -> Moments:
    """Returns the means of x [..., channels] and of its square, [channels] each, of x's dtype or float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    pixels = tuple(range(x.ndim - 1))
    if jax.default_backend() == 'cpu':
        return x.mean(pixels), jnp.square(x).mean(pixels)
    # In one reduction, for XLA would read x twice.
    zero = jnp.zeros((), x.dtype)
    sums = lax.reduce((x, jnp.square(x)), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), pixels)
    return sums[0] / values(x), sums[1] / values(x)


def values(x: jax.Array) -> int:
    """Returns the number of values of a channel of x [..., channels]."""
    return math.prod(x.shape[:-1])
