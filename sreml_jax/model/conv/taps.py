"""Convolutions of all members tap by tap, for images hardly larger than the kernel.

Each element of a kernel (a tap) is one matrix multiplication, batched over members, with only the pixels that
the tap meets inside the image. A 2x2 image under a 3x3 kernel has 16 such pairs of pixels. Patches multiply
36, most of them with the zeros of the border.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax import lax
from jax import numpy as jnp

from sreml_jax.model.conv.product import product


class _Tap(NamedTuple):
    """One element of the kernel and, along height and width, the pixels it joins: (start, stop, stride)."""

    row: int
    column: int
    inputs: tuple[tuple[int, int, int], tuple[int, int, int]]
    outputs: tuple[tuple[int, int, int], tuple[int, int, int]]


def forward(
    x: jax.Array, w: jax.Array, strides: tuple, padding: tuple, size: tuple[int, int], precision: Any = None
) -> jax.Array:
    """Returns the output, [members, images, *size, features].

    Args:
      x: [members, images, height, width, channels], or shared images without the first axis.
      w: kernels [members, kh, kw, channels, features].
      strides: of height and width.
      padding: ((low, high), (low, high)).
      size: height and width of the output.
      precision: of the products, as in `jax.lax`.
    """
    m = 'm' * (x.ndim - 4)
    parts = []
    for tap in _taps(x.shape[-3:-1], w, strides, padding, size):
        y = _product(f'{m}nhwc,mcf->mnhwf', _cut(x, tap.inputs), w[:, tap.row, tap.column], precision)
        parts.append(_put(y, tap.outputs, size))
    return sum(parts[1:], parts[0]).astype(x.dtype)


def input_gradient(
    dy: jax.Array, w: jax.Array, x: jax.Array, strides: tuple, padding: tuple, precision: Any = None
) -> jax.Array:
    """Returns the gradient of x, summed over members if x is shared; see `forward` for the arguments."""
    m = 'm' * (x.ndim - 4)
    parts = []
    for tap in _taps(x.shape[-3:-1], w, strides, padding, dy.shape[-3:-1]):
        dx = _product(f'mnhwf,mcf->{m}nhwc', _cut(dy, tap.outputs), w[:, tap.row, tap.column], precision)
        parts.append(_put(dx, tap.inputs, x.shape[-3:-1]))
    return sum(parts[1:], parts[0]).astype(x.dtype)


def kernel_gradient(
    x: jax.Array, dy: jax.Array, w: jax.Array, strides: tuple, padding: tuple, precision: Any = None
) -> jax.Array:
    """Returns the gradient of w; see `forward` for the arguments."""
    m = 'm' * (x.ndim - 4)
    # A product copies its first operand into another order: the smaller one goes first.
    few_features = w.shape[-1] < w.shape[-2]
    taps = []
    for tap in _taps(x.shape[-3:-1], w, strides, padding, dy.shape[-3:-1]):
        pixels, gradient = _cut(x, tap.inputs), _cut(dy, tap.outputs)
        if few_features:
            taps.append(_product(f'mnhwf,{m}nhwc->mfc', gradient, pixels, precision).swapaxes(1, 2))
        else:
            taps.append(_product(f'{m}nhwc,mnhwf->mcf', pixels, gradient, precision))
    return jnp.stack(taps, 1).reshape(w.shape).astype(w.dtype)


def _taps(have: tuple, w: jax.Array, strides: tuple, padding: tuple, size: tuple) -> Iterator[_Tap]:
    """Yields all taps of the kernel, row by row; a tap that meets no pixel has empty ranges."""
    kh, kw = w.shape[1:3]
    for row in range(kh):
        for column in range(kw):
            ranges = []
            for tap, n, stride, (low, _), out in zip(
                (row, column), have, strides, padding, size, strict=True
            ):
                first = max(0, -((tap - low) // stride))
                stop = max(first, min(out, (n - 1 + low - tap) // stride + 1))
                start = first * stride - low + tap
                ranges.append(((start, start + (stop - first) * stride, stride), (first, stop, 1)))
            inputs, outputs = zip(*ranges, strict=True)
            yield _Tap(row, column, inputs, outputs)


def _cut(x, ranges):
    (top, bottom, down), (left, right, across) = ranges
    return x[..., top:bottom:down, left:right:across, :]


def _put(x, ranges, size):
    """Transposes `_cut`: puts x among zeros."""
    edges = []
    for (start, _, stride), n, have in zip(ranges, size, x.shape[-3:-1], strict=True):
        spread = max(0, (have - 1) * stride + 1)
        edges.append((start, n - start - spread, stride - 1))
    return lax.pad(x, jnp.zeros((), x.dtype), [*((0, 0, 0),) * (x.ndim - 3), *edges, (0, 0, 0)])


def _product(subscripts, a, b, precision):
    # Taps are summed in at least float32.
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return product(subscripts, a, b, precision=precision, preferred_element_type=wide)
