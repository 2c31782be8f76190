"""Runs a convolution with one kernel per member on this device.

Plain vmap over members makes XLA run a grouped convolution, which can take many times as long as the members'
own convolutions. `conv` replaces `lax.conv_general_dilated` in a module that is vmapped over members. It has
its own vmap rule: `algorithms` has the algorithms, `choice` the choice of 'auto'. `trunk_conv` runs the
trunk's convolutions, which have one kernel, by the same algorithms.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax.custom_batching import custom_vmap

from sreml_jax.model.conv import choice, implicit
from sreml_jax.model.conv.algorithms import ALGORITHMS, KNOWN, Algorithm, Geometry, is_shared, plain
from sreml_jax.model.conv.moments import Convolved, moments_of
from sreml_jax.runtime.sharding import agree
from sreml_jax.runtime.xla import keep, members_beside_channels

CHOICES = ('auto', *ALGORITHMS)


def conv(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    algorithm: str = 'auto',
    **options: Any,
) -> jax.Array:
    """Computes a convolution that vmap over members runs by the given algorithm.

    It has reverse-mode derivatives under `jax.vmap` over kernels, with images mapped or shared.

    Args:
      lhs: images [batch, height, width, channels].
      rhs: kernel [kh, kw, channels / groups, features], of the same dtype.
      window_strides: of height and width.
      padding: explicit, ((low, high), (low, high)).
      algorithm: one of `CHOICES`.
      **options: the other arguments of `lax.conv_general_dilated`. Dilations must be absent or 1;
        dimension_numbers is ignored, as it is always NHWC, HWIO, NHWC.

    Returns:
      [batch, height', width', features].

    Raises:
      ValueError: the algorithm is unknown, or the convolution has dilation or a named padding.
    """
    if algorithm not in CHOICES:
        raise ValueError(f'member_conv is {algorithm!r}; it must be one of {", ".join(CHOICES)}')
    geometry = geometry_of(window_strides, padding, **options)
    return _with_member_rule(geometry, algorithm)(*agree(lhs, rhs))


def conv_and_moments(
    lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int], padding: Sequence[tuple[int, int]],
    **options: Any,
) -> Convolved:  # fmt: skip
    """Computes a convolution as 'auto' runs it, and its output's moments, which have no derivative."""
    geometry = geometry_of(window_strides, padding, **options)
    return Convolved(*_with_member_rule(geometry, 'auto', moments=True)(*agree(lhs, rhs)))


def trunk_conv(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Computes a convolution outside vmap as 'auto' runs that of one member; see `conv`."""
    geometry = geometry_of(window_strides, padding, **options)
    x, w = agree(lhs, rhs)
    return convolve_members(x[None], w[None], geometry, 'auto')[0]


def geometry_of(
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Geometry:
    """Returns the geometry of `lax.conv_general_dilated`'s arguments; raises as `conv` does."""
    del dimension_numbers
    if isinstance(padding, str) or {*(lhs_dilation or ()), *(rhs_dilation or ())} - {1}:
        raise ValueError('a member convolution has explicit padding and no dilation')
    pads = tuple((int(low), int(high)) for low, high in padding)
    return Geometry(tuple(strides), pads, feature_group_count, precision)


@functools.cache
def _with_member_rule(geometry: Geometry, algorithm: str, moments: bool = False):
    def of_member(x, w):
        y = plain(x, w, geometry)
        return (y, moments_of(y)) if moments else y

    one = custom_vmap(of_member)

    @one.def_vmap
    def rule(axis_size, in_batched, x, w):
        del axis_size
        if not in_batched[1]:
            y = jax.vmap(lambda x: of_member(x, w))(x)
        elif moments:
            y = convolve_with_moments(x, w, geometry)
        else:
            y = convolve_members(x, w, geometry, algorithm)
        return y, jax.tree.map(lambda _: True, y)

    return one


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_members(x: jax.Array, w: jax.Array, geometry: Geometry, algorithm: str) -> jax.Array:
    """Computes the convolutions of all members at once; `algorithms` documents the operands."""
    y = _algorithm('forward', x, w, geometry, algorithm).forward(x, w, geometry)
    return _laid_out(y, algorithm)


def _members_forward(x, w, geometry, algorithm):
    return convolve_members(x, w, geometry, algorithm), (x, w)


def _members_backward(geometry, algorithm, operands, dy):
    x, w = operands
    dy = _laid_out(keep(dy), algorithm)
    dx = _algorithm('input_gradient', x, w, geometry, algorithm).input_gradient(dy, w, x, geometry)
    return _laid_out(dx, algorithm), kernel_gradient(x, dy, w, geometry, algorithm)


convolve_members.defvjp(_members_forward, _members_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_with_moments(x: jax.Array, w: jax.Array, geometry: Geometry):
    """As `convolve_members` by 'auto'; also returns the output's moments, which have no derivative here."""
    if automatic('forward', x, w, geometry) != 'implicit':
        y = convolve_members(x, w, geometry, 'auto')
        return y, jax.vmap(moments_of)(y)
    y, *sums = implicit.forward_and_sums(x, w, geometry)
    count = y.size // sums[0].size
    return members_beside_channels(y), tuple(total / count for total in sums)


def _moments_forward(x, w, geometry):
    return convolve_with_moments(x, w, geometry), (x, w)


def _moments_backward(geometry, operands, gradients):
    return _members_backward(geometry, 'auto', operands, gradients[0])


convolve_with_moments.defvjp(_moments_forward, _moments_backward)


def kernel_gradient(
    x: jax.Array, dy: jax.Array, w: jax.Array, geometry: Geometry, algorithm: str = 'auto'
) -> jax.Array:
    """Computes the gradient of w; `algorithms` documents the operands."""
    return _algorithm('kernel_gradient', x, w, geometry, algorithm).kernel_gradient(x, dy, w, geometry)


def _laid_out(activations: jax.Array, algorithm: str) -> jax.Array:
    """Returns activations with members beside channels, for 'auto' only.

    An exported file, which has a forced algorithm, would refuse the constraint.
    """
    return members_beside_channels(activations) if algorithm == 'auto' else activations


def _algorithm(product: str, x: jax.Array, w: jax.Array, geometry: Geometry, algorithm: str) -> Algorithm:
    return KNOWN[automatic(product, x, w, geometry) if algorithm == 'auto' else algorithm]


def automatic(product: str, x: jax.Array, w: jax.Array, geometry: Geometry) -> str:
    """Returns the key of `algorithms.KNOWN` by which 'auto' runs a product (see `choice.choose`) here."""
    stride, groups = geometry.strides[0], geometry.groups
    preferred = choice.prefers_implicit(product, w.shape[1:3], groups)
    if preferred and implicit.can_run(product, x, w, geometry):
        return 'implicit'
    size = geometry.output_size(x.shape[-3:-1], w.shape[1:3])
    kind = len(w), size, w.shape[1:], stride, groups, is_shared(x)
    return choice.choose(jax.default_backend(), product, *kind)
