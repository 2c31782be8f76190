"""Ways to run one convolution of every member: arrays carry a leading member axis, geometry is static.

A way is three functions, `forward(x, w, g)`, `input_gradient(dy, w, x, g)` and
`kernel_gradient(x, dy, w, g)`;
x is [members, images, height, width, channels], or lacks the first axis where all members read the same
images (the trunk's output); w is [members, kh, kw, channels / groups, features]. A gradient for shared
images is the sum over members.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import lax
from jax import numpy as jnp

from sreml_jax.model import taps, winograd
from sreml_jax.model.channel_blocks import ChannelBlocks

_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


class Geometry(NamedTuple):
    """What a convolution is, but for the shapes of its operands."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    groups: int
    precision: lax.PrecisionLike = None

    def output_size(self, image: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the height and width of the output, from those of an image and of the kernel."""
        sizes = zip(image, kernel, self.strides, self.padding, strict=True)
        return tuple((size + sum(pad) - k) // stride + 1 for size, k, stride, pad in sizes)


class Way(NamedTuple):
    """The three products of one way; see the module's docstring for their arguments."""

    forward: Callable
    input_gradient: Callable
    kernel_gradient: Callable


def plain(x: jax.Array, w: jax.Array, g: Geometry) -> jax.Array:
    """The convolution of one member, as XLA runs it."""
    return lax.conv_general_dilated(
        x, w, g.strides, g.padding,
        dimension_numbers=_DIMENSIONS, feature_group_count=g.groups, precision=g.precision,
    )  # fmt: skip


def is_shared(x: jax.Array) -> bool:
    """Whether all members read the same images."""
    return x.ndim == 4


def _plain_input_gradient(dy, w, x, g):
    return jax.linear_transpose(lambda x: plain(x, w, g), x)(dy)[0]


def _plain_kernel_gradient(x, dy, w, g):
    return jax.linear_transpose(lambda w: plain(x, w, g), w)(dy)[0]


# Grouped: plain vmap. XLA sees one grouped convolution, or, where the images are shared, one
# convolution with members x features outputs.


def _grouped(x, w, g):
    return jax.vmap(lambda x, w: plain(x, w, g), (None if is_shared(x) else 0, 0))(x, w)


def _grouped_input_gradient(dy, w, x, g):
    return jax.linear_transpose(lambda x: _grouped(x, w, g), x)(dy)[0]


def _grouped_kernel_gradient(x, dy, w, g):
    return jax.linear_transpose(lambda w: _grouped(x, w, g), w)(dy)[0]


# Unrolled: one convolution a member. XLA's kernel gradient of a grouped convolution is 100 times slower on a
# CPU than the forward pass; written as another forward convolution, it is as fast.


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
    """The output's gradient as a kernel over the input, which contracts the images, group by group."""
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


# Matmul: patches times kernels, batched over members.


def _patches(x, kernel, g):
    """[..., images, height, width, channels] -> [..., pixels of the output, kh * kw, channels]."""
    *lead, height, width, channels = x.shape
    out = g.output_size((height, width), kernel)
    x = lax.pad(
        x, jnp.zeros((), x.dtype), [*((0, 0, 0),) * len(lead), *((*p, 0) for p in g.padding), (0, 0, 0)]
    )
    taps = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            (sh, sw), last = g.strides, (out[0] - 1, out[1] - 1)
            taps.append(x[..., i : i + last[0] * sh + 1 : sh, j : j + last[1] * sw + 1 : sw, :])
    return jnp.stack(taps, -2).reshape(*lead[:-1], lead[-1] * out[0] * out[1], len(taps), channels)


def _fold(d, x, kernel, g):
    """The transpose of `_patches`: sums [..., pixels, kh * kw, channels] into the shape of x."""
    *lead, height, width, channels = x.shape
    out = g.output_size((height, width), kernel)
    d = d.reshape(*lead, *out, kernel[0] * kernel[1], channels)
    total = jnp.zeros((), d.dtype)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            edges = []
            for size, n, stride, tap, (low, _) in zip(
                (height, width), out, g.strides, (i, j), g.padding, strict=True
            ):
                start = tap - low
                edges.append((start, size - 1 - start - (n - 1) * stride, stride - 1))
            tap = d[..., i * kernel[1] + j, :]
            total += lax.pad(tap, jnp.zeros((), d.dtype), [*((0, 0, 0),) * len(lead), *edges, (0, 0, 0)])
    return total.astype(x.dtype)


def _einsum(subscripts, a, b, g):
    return jnp.einsum(subscripts, a, b, precision=g.precision, preferred_element_type=a.dtype)


def _rows(patches):
    """[..., pixels, taps, channels] -> [..., pixels, taps * channels]."""
    return patches.reshape(*patches.shape[:-2], -1)


def _kernels(w):
    """[members, kh, kw, channels, features] -> [members, kh * kw * channels, features]."""
    return w.reshape(len(w), -1, w.shape[-1])


def _matmul(x, w, g):
    m = '' if is_shared(x) else 'm'
    y = _einsum(f'{m}rk,mkf->mrf', _rows(_patches(x, w.shape[1:3], g)), _kernels(w), g)
    return y.reshape(len(w), -1, *g.output_size(x.shape[-3:-1], w.shape[1:3]), w.shape[-1])


def _matmul_input_gradient(dy, w, x, g):
    m = '' if is_shared(x) else 'm'
    dy = dy.reshape(len(dy), -1, dy.shape[-1])
    return _fold(_einsum(f'mrf,mkf->{m}rk', dy, _kernels(w), g), x, w.shape[1:3], g)


def _matmul_kernel_gradient(x, dy, w, g):
    m = '' if is_shared(x) else 'm'
    dy = dy.reshape(len(dy), -1, dy.shape[-1])
    return _einsum(f'{m}rk,mrf->mkf', _rows(_patches(x, w.shape[1:3], g)), dy, g).reshape(w.shape)


# Winograd: fewer products for a 3x3 convolution; anything else by matmul.


def _has_winograd(w, g):
    return w.shape[1:3] == (3, 3) and g.strides in ((1, 1), (2, 2))


def _winograd(x, w, g):
    if not _has_winograd(w, g):
        return _matmul(x, w, g)
    return winograd.forward(x, w, g.strides[0], g.padding, g.output_size(x.shape[-3:-1], (3, 3)))


def _winograd_input_gradient(dy, w, x, g):
    if not _has_winograd(w, g):
        return _matmul_input_gradient(dy, w, x, g)
    return winograd.input_gradient(dy, w, x, g.strides[0], g.padding)


def _winograd_kernel_gradient(x, dy, w, g):
    if not _has_winograd(w, g):
        return _matmul_kernel_gradient(x, dy, w, g)
    return winograd.kernel_gradient(x, dy, w, g.strides[0], g.padding)


# Taps: products with the pixels inside the image alone.


def _taps(x, w, g):
    size = g.output_size(x.shape[-3:-1], w.shape[1:3])
    return taps.forward(x, w, g.strides, g.padding, size, g.precision)


def _taps_input_gradient(dy, w, x, g):
    return taps.input_gradient(dy, w, x, g.strides, g.padding, g.precision)


def _taps_kernel_gradient(x, dy, w, g):
    return taps.kernel_gradient(x, dy, w, g.strides, g.padding, g.precision)


def _by_blocks(way: Way) -> Way:
    """The way, with channel groups as members of their own."""

    def forward(x, w, g):
        if g.groups == 1:
            return way.forward(x, w, g)
        blocks, one = ChannelBlocks.of(w.shape, g.groups), g._replace(groups=1)
        return blocks.join(way.forward(blocks.split(x), blocks.kernels(w), one))

    def input_gradient(dy, w, x, g):
        if g.groups == 1:
            return way.input_gradient(dy, w, x, g)
        blocks, one = ChannelBlocks.of(w.shape, g.groups), g._replace(groups=1)
        dx = blocks.join(way.input_gradient(blocks.split(dy), blocks.kernels(w), blocks.split(x), one))
        return dx.sum(0) if is_shared(x) else dx

    def kernel_gradient(x, dy, w, g):
        if g.groups == 1:
            return way.kernel_gradient(x, dy, w, g)
        blocks, one = ChannelBlocks.of(w.shape, g.groups), g._replace(groups=1)
        return blocks.of_groups(
            way.kernel_gradient(blocks.split(x), blocks.split(dy), blocks.kernels(w), one)
        )

    return Way(forward, input_gradient, kernel_gradient)


WAYS = {
    'grouped': Way(_grouped, _grouped_input_gradient, _grouped_kernel_gradient),
    'unrolled': Way(_unrolled, _unrolled_input_gradient, _unrolled_kernel_gradient),
    'matmul': _by_blocks(Way(_matmul, _matmul_input_gradient, _matmul_kernel_gradient)),
    'taps': _by_blocks(Way(_taps, _taps_input_gradient, _taps_kernel_gradient)),
    'winograd': _by_blocks(Way(_winograd, _winograd_input_gradient, _winograd_kernel_gradient)),
}
