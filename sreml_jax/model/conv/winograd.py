"""3x3 convolutions of all members with fewer products, by Winograd's algorithm.

An output tile of 2x2 pixels needs 16 products per pair of channels instead of 36, or 25 if the stride is 2
(Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016; stride 2 takes even and odd pixels
apart). Each product is one matrix multiplication, batched over members. In one dimension, for an input tile
x, taps w and an output tile y:

    y = OUTPUT ((KERNEL w) * (INPUT x))

Two dimensions take the same along each axis. Every gradient is the transposed algorithm.

The sums need at least float32: they lose more bits than bfloat16 can spare.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax import lax
from jax import numpy as jnp

from sreml_jax.model.conv.product import product
from sreml_jax.runtime.xla import keep

Matrix = tuple[tuple[float, ...], ...]
Grid = list[list[jax.Array]]


class Transform(NamedTuple):
    """The matrices for one stride: products x input pixels, products x 3 taps, 2 output pixels x products."""

    input: Matrix
    kernel: Matrix
    output: Matrix


TRANSFORMS = {
    1: Transform(
        input=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        kernel=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
        output=((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    2: Transform(
        input=((1, 0, -1, 0, 0), (0, 0, 1, 0, 0), (0, 0, 1, 0, -1), (0, 1, 0, 0, 0), (0, 0, 0, 1, 0)),
        kernel=((1, 0, 0), (1, 0, 1), (0, 0, 1), (0, 1, 0), (0, 1, 0)),
        output=((1, 1, 0, 1, 0), (0, 1, -1, 0, 1)),
    ),
}


def forward(x: jax.Array, w: jax.Array, stride: int, padding: tuple, size: tuple[int, int]) -> jax.Array:
    """Returns the output, [members, images, *size, features].

    Args:
      x: [members, images, height, width, channels], or shared images without the first axis.
      w: kernels [members, 3, 3, channels, features].
      stride: 1 or 2, of height and width.
      padding: ((low, high), (low, high)).
      size: height and width of the output.
    """
    a = TRANSFORMS[stride]
    m = 'm' * (x.ndim - 4)
    products = _products(f'{m}nhwc,mco->mnhwo', _inputs(x, a, padding, size, stride), _kernels(w, a))
    y = _interleave(_transform(a.output, products))
    return y[:, :, : size[0], : size[1]].astype(x.dtype)


def input_gradient(dy: jax.Array, w: jax.Array, x: jax.Array, stride: int, padding: tuple) -> jax.Array:
    """The gradient for x, summed over members where x is shared; other arguments as in `forward`."""
    a = TRANSFORMS[stride]
    m = 'm' * (x.ndim - 4)
    products = _products(f'mnhwo,mco->{m}nhwc', _outputs(dy, a), _kernels(w, a))
    tiles = _transform(_transpose(a.input), products)
    step = 2 * stride
    dx = _interleave([[_overlap(tiles, i, j, step) for j in range(step)] for i in range(step)])
    sizes = zip(x.shape[-3:-1], dx.shape[-3:-1], padding, strict=True)
    edges = [(-low, size + low - have, 0) for size, have, (low, _) in sizes]
    return lax.pad(dx, _zero(dx), [*((0, 0, 0),) * (x.ndim - 3), *edges, (0, 0, 0)]).astype(x.dtype)


def kernel_gradient(x: jax.Array, dy: jax.Array, w: jax.Array, stride: int, padding: tuple) -> jax.Array:
    """The gradient for w; other arguments as in `forward`."""
    a = TRANSFORMS[stride]
    m = 'm' * (x.ndim - 4)
    inputs = _inputs(x, a, padding, dy.shape[-3:-1], stride)
    products = _products(f'{m}nhwc,mnhwo->mco', inputs, _outputs(dy, a))
    taps = _transform(_transpose(a.kernel), products)
    return jnp.stack([jnp.stack(row, 1) for row in taps], 1).astype(w.dtype)


def _inputs(x: jax.Array, a: Transform, padding: tuple, size: tuple[int, ...], stride: int) -> Grid:
    """Pixel (i, j) of every input tile, [..., tiles down, tiles across, channels], transformed."""
    step, pixels = 2 * stride, len(a.input[0])
    tiles = [-(-n // 2) for n in size]
    need = [(t - 1) * step + pixels for t in tiles]
    edges = [
        (low, n - low - have, 0) for have, n, (low, _) in zip(x.shape[-3:-1], need, padding, strict=True)
    ]
    x = lax.pad(_wide(x), _zero(_wide(x)), [*((0, 0, 0),) * (x.ndim - 3), *edges, (0, 0, 0)])
    last = [(t - 1) * step + 1 for t in tiles]
    return _transform(
        a.input,
        [
            [x[..., i : i + last[0] : step, j : j + last[1] : step, :] for j in range(pixels)]
            for i in range(pixels)
        ],
    )


def _outputs(dy: jax.Array, a: Transform) -> Grid:
    """Returns the transformed pixel (i, j) of every output tile, laid out as in `_inputs`."""
    dy = _wide(dy)
    edges = [(0, n % 2, 0) for n in dy.shape[-3:-1]]
    dy = lax.pad(dy, _zero(dy), [(0, 0, 0), (0, 0, 0), *edges, (0, 0, 0)])
    return _transform(_transpose(a.output), [[dy[..., i::2, j::2, :] for j in (0, 1)] for i in (0, 1)])


def _kernels(w: jax.Array, a: Transform) -> Grid:
    w = _wide(w)
    return _transform(a.kernel, [[w[:, i, j] for j in range(3)] for i in range(3)])


def _products(subscripts: str, a: Grid, b: Grid) -> Grid:
    # A GPU's default precision for float32 would spoil the transforms.
    return [
        [product(subscripts, p, q, precision='highest') for p, q in zip(*rows, strict=True)]
        for rows in zip(a, b, strict=True)
    ]


def _transform(matrix: Matrix, grid: Grid) -> Grid:
    """Returns matrix @ grid @ matrix.T, whose elements are arrays; nothing is multiplied by 0 or 1."""
    across = [[_combine(row, parts) for row in matrix] for parts in grid]
    return _transpose([[_combine(row, parts) for row in matrix] for parts in _transpose(across)])


def _combine(coefficients: tuple[float, ...], parts: Sequence[jax.Array]) -> jax.Array:
    terms = [p if c == 1 else -p if c == -1 else c * p for c, p in zip(coefficients, parts, strict=True) if c]
    return sum(terms[1:], terms[0])


def _transpose(grid):
    return list(zip(*grid, strict=True))


def _interleave(grid: Grid) -> jax.Array:
    """Puts pixel (i, j) of every tile in its place: [..., tiles down, tiles across, channels] -> an image."""
    # A CPU is slow if XLA fuses the transforms into the copies.
    rows = [jnp.stack([keep(pixel) for pixel in row], -2) for row in grid]
    x = jnp.stack(rows, -4)
    *lead, down, i, across, j, channels = x.shape
    return x.reshape(*lead, down * i, across * j, channels)


def _overlap(tiles: Grid, i: int, j: int, step: int) -> jax.Array:
    """Sums pixel (i, j) of every step x step block over the tiles that reach into it."""
    pixels, reaching = len(tiles), []
    for down in range(i, pixels, step):
        for across in range(j, pixels, step):
            tile = tiles[down][across]
            edges = [(int(k >= step), int(k < step), 0) for k in (down, across)]
            reaching.append(lax.pad(tile, _zero(tile), [*((0, 0, 0),) * (tile.ndim - 3), *edges, (0, 0, 0)]))
    return sum(reaching[1:], reaching[0])


def _wide(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _zero(x: jax.Array) -> jax.Array:
    return jnp.zeros((), x.dtype)
