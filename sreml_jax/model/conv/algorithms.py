"""The algorithms that can run one convolution of every member.

An algorithm is three functions: `forward(x, w, g)`, `input_gradient(dy, w, x, g)` and `kernel_gradient(x, dy,
w, g)`. x is [members, images, height, width, channels]; it lacks the first axis if all members read the same
images (the trunk's output). w is [members, kh, kw, channels / groups, features]. g is the geometry, which is
static. The gradient of shared images is the sum over members.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import lax
from jax import numpy as jnp

from sreml_jax.model.conv import implicit, patches, taps, winograd
from sreml_jax.model.conv.channel_blocks import ChannelBlocks
from sreml_jax.model.conv.geometry import Geometry, is_shared

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


class Algorithm(NamedTuple):
    """The three products of one algorithm; see the module's docstring for their arguments."""

    forward: Callable
    input_gradient: Callable
    kernel_gradient: Callable


def plain(x: jax.Array, w: jax.Array, g: Geometry) -> jax.Array:
    """The convolution of one member, as XLA runs it."""
    return lax.conv_general_dilated(
        x, w, g.strides, g.padding,
        dimension_numbers=_DIMENSIONS, feature_group_count=g.groups, precision=g.precision,
    )  # fmt: skip


def _plain_input_gradient(dy, w, x, g):
    return jax.linear_transpose(lambda x: plain(x, w, g), x)(dy)[0]


def _plain_kernel_gradient(x, dy, w, g):
    return jax.linear_transpose(lambda w: plain(x, w, g), w)(dy)[0]


# Grouped: plain vmap. XLA sees one grouped convolution or, if the images are shared, one convolution with
# members x features outputs.


def _grouped(x, w, g):
    return jax.vmap(lambda x, w: plain(x, w, g), (None if is_shared(x) else 0, 0))(x, w)


def _grouped_input_gradient(dy, w, x, g):
    return jax.linear_transpose(lambda x: _grouped(x, w, g), x)(dy)[0]


def _grouped_kernel_gradient(x, dy, w, g):
    return jax.linear_transpose(lambda w: _grouped(x, w, g), w)(dy)[0]


# Unrolled: one convolution per member. On a CPU, XLA's kernel gradient of a grouped convolution takes 100
# times as long as the forward pass. Written as another forward convolution, it takes as long as that.


def _member(x, m):
    return x if is_shared(x) else x[m]


def _unrolled(x, w, g):
    return jnp.stack([plain(_member(x, m), w[m], g) for m in range(len(w))])


def _unrolled_input_gradient(dy, w, x, g):
    each = [_plain_input_gradient(dy[m], w[m], _member(x, m), g) for m in range(len(w))]
    return functools.reduce(jnp.add, each) if is_shared(x) else jnp.stack(each)


def _unrolled_kernel_gradient(x, dy, w, g):
    one = _plain_kernel_gradient if g.groups == 1 else _grouped_channels_kernel_gradient
    return jnp.stack([one(_member(x, m), dy[m], w[m], g) for m in range(len(w))])


def _grouped_channels_kernel_gradient(x, dy, w, g):
    """Convolves the input with the output's gradient as the kernel, group by group; images are contracted."""
    images, height, width, channels = x.shape
    down, across = dy.shape[1:3]
    x = x.reshape(images, height, width, g.groups, -1).transpose(4, 1, 2, 3, 0)
    dy = dy.transpose(1, 2, 0, 3)
    padding = [
        (low, k + (out - 1) * stride - size - low)
        for (low, _), k, out, stride, size in zip(
            g.padding, w.shape, (down, across), g.strides, (height, width), strict=False
        )
    ]
    dw = lax.conv_general_dilated(
        x.reshape(channels // g.groups, height, width, g.groups * images), dy, (1, 1), padding,
        rhs_dilation=g.strides, dimension_numbers=_DIMENSIONS,
        feature_group_count=g.groups, precision=g.precision,
    )  # fmt: skip
    return dw.transpose(1, 2, 0, 3)


# Winograd: fewer products for a 3x3 convolution. Other kernels run as matmul does.


def _has_winograd(w, g):
    return w.shape[1:3] == (3, 3) and g.strides in ((1, 1), (2, 2))


def _winograd(x, w, g):
    if not _has_winograd(w, g):
        return patches.forward(x, w, g)
    return winograd.forward(x, w, g.strides[0], g.padding, g.output_size(x.shape[-3:-1], (3, 3)))


def _winograd_input_gradient(dy, w, x, g):
    if not _has_winograd(w, g):
        return patches.input_gradient(dy, w, x, g)
    return winograd.input_gradient(dy, w, x, g.strides[0], g.padding)


def _winograd_kernel_gradient(x, dy, w, g):
    if not _has_winograd(w, g):
        return patches.kernel_gradient(x, dy, w, g)
    return winograd.kernel_gradient(x, dy, w, g.strides[0], g.padding)


# Taps: products with only the pixels inside the image.


def _taps(x, w, g):
    size = g.output_size(x.shape[-3:-1], w.shape[1:3])
    return taps.forward(x, w, g.strides, g.padding, size, g.precision)


def _taps_input_gradient(dy, w, x, g):
    return taps.input_gradient(dy, w, x, g.strides, g.padding, g.precision)


def _taps_kernel_gradient(x, dy, w, g):
    return taps.kernel_gradient(x, dy, w, g.strides, g.padding, g.precision)


def _by_blocks(algorithm: Algorithm) -> Algorithm:
    """Returns the algorithm with blocks of channel groups as members."""

    def forward(x, w, g):
        if g.groups == 1:
            return algorithm.forward(x, w, g)
        blocks, one = ChannelBlocks.of(w.shape, g.groups), g._replace(groups=1)
        return blocks.join(algorithm.forward(blocks.split(x), blocks.kernels(w), one))

    def input_gradient(dy, w, x, g):
        if g.groups == 1:
            return algorithm.input_gradient(dy, w, x, g)
        blocks, one = ChannelBlocks.of(w.shape, g.groups), g._replace(groups=1)
        dx = blocks.join(algorithm.input_gradient(blocks.split(dy), blocks.kernels(w), blocks.split(x), one))
        return dx.sum(0) if is_shared(x) else dx

    def kernel_gradient(x, dy, w, g):
        if g.groups == 1:
            return algorithm.kernel_gradient(x, dy, w, g)
        blocks, one = ChannelBlocks.of(w.shape, g.groups), g._replace(groups=1)
        return blocks.of_groups(
            algorithm.kernel_gradient(blocks.split(x), blocks.split(dy), blocks.kernels(w), one)
        )

    return Algorithm(forward, input_gradient, kernel_gradient)


ALGORITHMS = {
    'grouped': Algorithm(_grouped, _grouped_input_gradient, _grouped_kernel_gradient),
    'unrolled': Algorithm(_unrolled, _unrolled_input_gradient, _unrolled_kernel_gradient),
    'matmul': _by_blocks(Algorithm(patches.forward, patches.input_gradient, patches.kernel_gradient)),
    'taps': _by_blocks(Algorithm(_taps, _taps_input_gradient, _taps_kernel_gradient)),
    'winograd': _by_blocks(Algorithm(_winograd, _winograd_input_gradient, _winograd_kernel_gradient)),
}

# With what only Hopper GPUs run, where `implicit.can_run` says so. No config can choose it: 'auto' takes it.
KNOWN = ALGORITHMS | {
    'implicit': Algorithm(implicit.forward, implicit.input_gradient, implicit.kernel_gradient)
}
