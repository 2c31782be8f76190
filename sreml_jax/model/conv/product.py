"""Matrix products of the pixels of images with kernels and with each other.

XLA's CPU compiler copies both operands of a sum over three axes (images, height and width) into another order
first. As one axis of pixels it multiplies them as they lie.
"""

import math
from typing import Any

import jax
from jax import numpy as jnp


def product(subscripts: str, a: jax.Array, b: jax.Array, **options: Any) -> jax.Array:
    """`jnp.einsum` of two operands, in which 'nhw' (images, height, width) are multiplied as one axis.

    Raises:
      ValueError: the operands lack axes that `subscripts` names.
    """
    operands, result = subscripts.split('->')
    first, second = operands.split(',')
    sizes = dict(zip(first, a.shape, strict=True)) | dict(zip(second, b.shape, strict=True))
    y = jnp.einsum(subscripts.replace('nhw', 'p'), _pixels(first, a), _pixels(second, b), **options)
    return y.reshape([sizes[axis] for axis in result])


def _pixels(axes: str, x: jax.Array) -> jax.Array:
    """Reshapes [..., images, height, width, channels] to [..., pixels, channels]; kernels stay."""
    at = axes.find('nhw')
    if at < 0:
        return x
    return x.reshape(*x.shape[:at], math.prod(x.shape[at : at + 3]), *x.shape[at + 3 :])
