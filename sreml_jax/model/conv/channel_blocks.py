"""Convolutions in groups of few channels (ResNeXt) as convolutions of more members without groups.

Neighboring groups are put together to blocks of channels, with zeros between the groups of a block in its
kernel; then each block of each member is a member. The zeros cost products, but the groups' 3x3 convolutions
are a small part of a ResNeXt, and matrices of 4 columns are slow on any device.
"""

import math
from typing import NamedTuple

import jax
from jax import numpy as jnp

CHANNELS = 32  # of a block, at least: fewer do not fill a vector unit


class ChannelBlocks(NamedTuple):
    """How the groups of `members` kernels are put together.

    Attributes:
      members: kernels.
      blocks: of each member.
      groups: of each block.
    """

    members: int
    blocks: int
    groups: int

    @classmethod
    def of(cls, shape: tuple[int, ...], groups: int) -> 'ChannelBlocks':
        """For kernels of shape [members, kh, kw, channels / groups, features]."""
        together = math.gcd(groups, max(1, CHANNELS // shape[3]))
        return cls(shape[0], groups // together, together)

    def split(self, x: jax.Array) -> jax.Array:
        """[members, images, height, width, channels], or shared images, to blocks in place of members."""
        if x.ndim == 4:
            x = jnp.broadcast_to(x, (self.members, *x.shape))
        x = jnp.moveaxis(x.reshape(*x.shape[:-1], self.blocks, -1), -2, 1)
        return x.reshape(-1, *x.shape[2:])

    def join(self, x: jax.Array) -> jax.Array:
        """The inverse of `split`, of images that are not shared."""
        x = jnp.moveaxis(x.reshape(self.members, self.blocks, *x.shape[1:]), 1, -2)
        return x.reshape(*x.shape[:-2], -1)

    def kernels(self, w: jax.Array) -> jax.Array:
        """[members, kh, kw, channels / groups, features] to one kernel a block, zero between its groups."""
        m, kh, kw, c, _ = w.shape
        w = w.reshape(m, kh, kw, c, self.blocks, self.groups, -1).transpose(0, 4, 1, 2, 5, 3, 6)
        own = jnp.eye(self.groups, dtype=w.dtype)[:, None, :, None]
        return (w[..., None, :] * own).reshape(m * self.blocks, kh, kw, self.groups * c, -1)

    def of_groups(self, w: jax.Array) -> jax.Array:
        """The transpose of `kernels`: what lies between groups is left out."""
        _, kh, kw, c, f = w.shape
        n = self.groups
        w = w.reshape(self.members, self.blocks, kh, kw, n, c // n, n, f // n)
        return jnp.einsum('mbhwgcgf->mhwcbgf', w).reshape(self.members, kh, kw, c // n, -1)
