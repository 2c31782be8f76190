"""Batch normalization, with the shortcut and relu that follow it in a ResNet.

It has the parameters and statistics of `flax.linen.BatchNorm` and gives the same results up to rounding. Flax
subtracts the mean and then scales, so its gradient keeps every centered activation and sums an array that is
only a multiple of another. One multiplication and one addition with factors per channel (`affine`) keep only
the convolution's output.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from sreml_jax.model import affine
from sreml_jax.model.conv.moments import Convolved, Moments

MOMENTUM = 0.9  # torch's 0.1: the share of the running statistics that is kept
EPSILON = 1e-5


class BatchNorm(nn.Module):
    """Normalizes each channel of [..., channels] to mean 0 and variance 1 over the batch; scales and shifts
    it.

    Attributes:
      train: use the batch's statistics, and move the running ones towards them.
      axis: name of the mapped axis that shares the batch, or None.
      dtype: of the result; None takes the dtype of parameters and activations. Computes in float32 or wider.
    """

    train: bool
    axis: str | None = None
    dtype: Any = None

    def __call__(
        self, x: jax.Array | Convolved, shortcut: jax.Array | None = None, *, relu: bool = False
    ) -> jax.Array:
        """Normalizes x, [..., channels]; with `relu`, adds the shortcut and applies relu.

        Returns:
          [..., channels] of `dtype`, as the shortcut must be.

        Raises:
          ValueError: a shortcut without relu.
        """
        if shortcut is not None and not relu:
            raise ValueError('a shortcut is added only before relu')
        narrow = (x.output if isinstance(x, Convolved) else x).dtype
        x, factor, addend = self._operands(x)
        dtype = self.dtype or jnp.result_type(narrow, jnp.float32)
        if relu:
            return affine.relu(x, factor, addend, shortcut, narrow, dtype)
        return (x * factor + addend).astype(dtype)

    def before_relu(self, x: jax.Array | Convolved, shortcut: jax.Array | None) -> affine.Relu:
        """Returns the operands of the relu that a call with `relu` computes, for the next convolution."""
        return affine.Relu(*self._operands(x), shortcut)

    @nn.compact
    def _operands(self, x: jax.Array | Convolved) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns x in float32 or wider, and the factor and the addend of each channel."""
        x, known = x if isinstance(x, Convolved) else (x, None)
        channels = x.shape[-1:]
        scale = self.param('scale', nn.initializers.ones, channels, jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, channels, jnp.float32)
        running_mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, jnp.float32)
        running_var = self.variable('batch_stats', 'var', jnp.ones, channels, jnp.float32)
        narrow = x.dtype
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, var = running_mean.value, running_var.value
        if self.train:
            mean, var = _statistics(x, known, narrow, None if self.is_initializing() else self.axis)
            if not self.is_initializing():
                running_mean.value = MOMENTUM * running_mean.value + (1 - MOMENTUM) * mean
                running_var.value = MOMENTUM * running_var.value + (1 - MOMENTUM) * var
        factor = scale * lax.rsqrt(var + EPSILON)
        return x, factor, bias - mean * factor


def _statistics(
    x: jax.Array, known: Moments | None, narrow: Any, axis: str | None
) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and (biased) variance of each channel; see `affine` for `known` and `narrow`."""
    moments = affine.moments(x, known, narrow)
    mean, square = lax.pmean(moments, axis) if axis else moments
    return mean, jnp.maximum(0, square - jnp.square(mean))
