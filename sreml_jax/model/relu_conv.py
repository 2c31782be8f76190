"""Convolutions of relu(x * factor + addend + shortcut), each with relu as one operation of all members.

Where `implicit` runs them, the kernel that computes the gradient of relu's result masks it and sums it for
BatchNorm: a pass over the gradient, and with a shortcut two more, are gone. Elsewhere relu is computed first.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from sreml_jax.model.affine import Relu
from sreml_jax.model.conv import implicit
from sreml_jax.model.conv.algorithms import Geometry, plain
from sreml_jax.model.conv.member_conv import convolve_with_moments, geometry_of, kernel_gradient
from sreml_jax.model.conv.moments import Convolved, moments_of
from sreml_jax.runtime.sharding import agree
from sreml_jax.runtime.xla import members_beside_channels, strided


class ReluConvolved(NamedTuple):
    """A convolution of a relu's result, with its moments; and of the result itself what a shortcut reads.

    `activation`: each `every`-th row and column from the first (see `conv`); None if relu had no shortcut.
    """

    convolved: Convolved
    activation: jax.Array | None


def conv(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    relu: Relu,
    every: int = 1,
    **options: Any,
) -> ReluConvolved:
    """Computes relu, a convolution of its result as 'auto' runs it, and the output's moments.

    Args:
      lhs: not read: relu's x, as `flax.linen.Conv` has rounded it.
      rhs: kernel [kh, kw, channels / groups, features]; relu's result has its dtype.
      window_strides: of height and width.
      padding: explicit, ((low, high), (low, high)).
      relu: what is convolved, [batch, height, width, channels].
      every: the step between rows, and columns, of relu's result that are returned for the next shortcut.
      **options: as `member_conv.conv` takes them.

    Raises:
      ValueError: the convolution has dilation or a named padding.
    """
    del lhs
    leaves, tree = jax.tree.flatten((relu, rhs))
    relu, rhs = jax.tree.unflatten(tree, agree(*leaves))
    return _with_member_rule(geometry_of(window_strides, padding, **options), every)(relu, rhs)


@functools.cache
def _with_member_rule(geometry: Geometry, every: int):
    @custom_vmap
    def of_member(relu, w):
        y = relu.result(w.dtype)
        z = plain(y, w, geometry)
        return _found(relu, y, every, z, moments_of(z))

    @of_member.def_vmap
    def rule(axis_size, in_batched, relu, w):
        def of_all(x, batched):
            return x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))

        relu, w = jax.tree.map(of_all, (relu, w), tuple(in_batched))
        narrow = jax.ShapeDtypeStruct(relu.x.shape, w.dtype)
        if implicit.can_run('input_gradient', narrow, w, geometry):
            found = _by_kernels(relu, w, geometry, every)
        else:
            y = _result(relu, w.dtype)
            found = _found(relu, y, every, *convolve_with_moments(y, w, geometry))
        return found, jax.tree.map(lambda _: True, found)

    return of_member


def _found(relu, y, every, z, moments) -> ReluConvolved:
    with jax.named_scope('relu'):
        pixels = None if relu.shortcut is None else strided(y, every)
    return ReluConvolved(Convolved(z, moments), pixels)


def _result(relu: Relu, dtype: Any) -> jax.Array:
    """Returns relu's result of all members."""
    with jax.named_scope('relu'):
        return members_beside_channels(jax.vmap(lambda relu: relu.result(dtype))(relu))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _by_kernels(relu: Relu, w: jax.Array, geometry: Geometry, every: int) -> ReluConvolved:
    return _forward(relu, w, geometry, every)[0]


def _forward(relu, w, geometry, every):
    # The kernel reads y. XLA, which can fuse relu into its own products, would write relu's argument too.
    y = lax.optimization_barrier(_result(relu, w.dtype))
    found = _found(relu, y, every, *convolve_with_moments(y, w, geometry))
    # ResNeXt's convolutions in groups would keep the most. The pass that writes the gradient of their x
    # writes y again.
    again = geometry.groups > 1 and relu.shortcut is None
    return found, (relu.x.astype(w.dtype), relu.factor, relu.addend, None if again else y, w)


def _backward(geometry, every, kept, gradients):
    x, factor, addend, y, w = kept
    dz, other = members_beside_channels(gradients.convolved.output), gradients.activation
    shortcut = None if other is None else implicit.Shortcut(y, members_beside_channels(other), every)
    d, of_addend, of_factor = implicit.relu_gradient(dz, w, x, factor, addend, shortcut, geometry)
    d = members_beside_channels(d)
    if y is None:
        factor, d = lax.optimization_barrier((factor, d))  # or XLA would keep the forward pass's y
        y = _result(Relu(x.astype(factor.dtype), factor, addend, None), w.dtype)
    with jax.named_scope('relu'):
        of_x = d.astype(factor.dtype) * factor[:, None, None, None]
    dw = kernel_gradient(y, dz, w, geometry)
    return Relu(of_x, of_factor, of_addend, None if other is None else d), dw


_by_kernels.defvjp(_forward, _backward)
