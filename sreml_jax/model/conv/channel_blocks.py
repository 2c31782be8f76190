"""Convolutions in groups of few channels (ResNeXt) as convolutions of more members without groups.

Neighboring groups form a block of channels, whose kernel is zero between its groups. Each block of each
member becomes a member. The zeros cost products, but the groups' 3x3 convolutions are a small part of a
ResNeXt, and matrices with 4 columns are slow on any device.
"""

import math
from typing import NamedTuple

import jax
from jax import numpy as jnp

CHANNELS = 32  # the fewest in a block: fewer do not fill a vector unit


class ChannelBlocks(NamedTuple):
    """How the groups of the members' kernels form blocks.

    Attributes:
      members: number of kernels.
      blocks: blocks per member.
      groups: groups per block.
    """

    members: int
    blocks: int
    groups: int

    @classmethod
    def of(cls, shape: tuple[int, ...], groups: int, channels: int = CHANNELS) -> 'ChannelBlocks':
        """Returns the blocks of kernels of this shape, [members, kh, kw, channels / groups, features].

        channels: the fewest in a block.
        """
        together = math.gcd(groups, max(1, channels // shape[3]))
        return cls(shape[0], groups // together, together)

    def split(self, x: jax.Array) -> jax.Array:
        """Splits [members, images, height, width, channels], or shared images, into blocks as members."""
        if x.ndim == 4:
            x = jnp.broadcast_to(x, (self.members, *x.shape))
        x = jnp.moveaxis(x.reshape(*x.shape[:-1], self.blocks, -1), -2, 1)
        return x.reshape(-1, *x.shape[2:])

    def join(self, x: jax.Array) -> jax.Array:
        """Inverts `split` of images that are not shared."""
        x = jnp.moveaxis(x.reshape(self.members, self.blocks, *x.shape[1:]), 1, -2)
        return x.reshape(*x.shape[:-2], -1)

    def kernels(self, w: jax.Array) -> jax.Array:
        """Turns [members, kh, kw, channels / groups, features] into one kernel per block."""
        if self.blocks == self.groups == 1:
            return w
        m, kh, kw, c, _ = w.shape
        w = w.reshape(m, kh, kw, c, self.blocks, self.groups, -1).transpose(0, 4, 1, 2, 5, 3, 6)
        own = jnp.eye(self.groups, dtype=w.dtype)[:, None, :, None]
        return (w[..., None, :] * own).reshape(m * self.blocks, kh, kw, self.groups * c, -1)

    def of_groups(self, w: jax.Array) -> jax.Array:
        """Transposes `kernels`: drops what lies between groups."""
        if self.blocks == self.groups == 1:
            return w
        _, kh, kw, c, f = w.shape
        n = self.groups
        w = w.reshape(self.members, self.blocks, kh, kw, n, c // n, n, f // n)
        return jnp.einsum('mbhwgcgf->mhwcbgf', w).reshape(self.members, kh, kw, c // n, -1)
