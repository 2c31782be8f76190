"""Convolutions of all members as products whose patches are gathered while they are multiplied.

One Triton kernel a product, and one for the gradient of an input that relu made (`relu_conv`), for Hopper
GPUs and bfloat16: nothing but operands and results is read and written. Activations are taken and given with
members beside channels (`runtime.xla`). `algorithms` documents the operands. jax-triton, an extra, compiles
the kernels.
"""

import functools
import importlib
import importlib.util
import logging
import math
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp

from sreml_jax.model.conv.channel_blocks import ChannelBlocks
from sreml_jax.model.conv.geometry import Geometry, is_shared

log = logging.getLogger(__name__)

TILES = {'TILE_M': 128, 'TILE_N': 128, 'TILE_K': 64, 'num_warps': 8, 'num_stages': 3}
SMALLEST = 32  # channels and features in a tile, and what their numbers are multiples of
MOST = 2**31  # numbers in an operand or result: places in memory are int32
BLOCK = 64  # channels in a block of groups: as many rows as one instruction of a Hopper GPU takes


@functools.cache
def available() -> bool:
    """Whether this process has a Hopper GPU and can compile the kernels; the log says what is missing."""
    if jax.default_backend() != 'gpu' or getattr(jax.devices()[0], 'compute_capability', '') != '9.0':
        return False
    if not all(map(importlib.util.find_spec, ('triton', 'jax_triton'))):
        log.info("pip install 'sreml_jax[hopper]' brings this GPU faster convolutions")
        return False
    try:
        if 'tensorflow' in sys.modules and not (installed := version('triton')).startswith('3.6.'):
            raise ImportError(
                f'Triton {installed} ends a process that has tensorflow; '
                "pip install 'sreml_jax[hopper]' brings another one"
            )
        importlib.import_module('jax_triton')
    except Exception as error:  # jax-triton reaches into jax, of which it may know another version
        log.warning('jax-triton cannot be used, so XLA runs the convolutions: %s', error)
        return False
    return True


def forward(x, w, g):
    """Returns the output, [members, images, height, width, features]."""
    return forward_and_sums(x, w, g)[0]


def forward_and_sums(x, w, g, tiles=TILES):
    """Returns the output, and float32 [members, features] sums of it and of its square."""
    if is_shared(x):  # the features of all members are those of one
        of_one = w.transpose(1, 2, 3, 0, 4).reshape(1, *w.shape[1:4], -1)
        y, *sums = forward_and_sums(x[None], of_one, g, tiles)
        y = y.reshape(*y.shape[1:4], len(w), -1).transpose(3, 0, 1, 2, 4)
        return y, *(total.reshape(len(w), -1) for total in sums)
    blocks, shape = _blocks(w, g), (x.shape[1], *g.output_size(x.shape[2:4], w.shape[1:3]))
    x, w = _beside(x, blocks), blocks.kernels(w)
    members, features = len(w), w.shape[-1]
    tiles = _fitting(tiles, TILE_N=features, TILE_K=x.shape[-1])
    tiles_m = -(-math.prod(shape) // tiles['TILE_M'])
    partial = jax.ShapeDtypeStruct((tiles_m, members, features), jnp.float32)
    output = jax.ShapeDtypeStruct((*shape, members, features), x.dtype)
    results, grid = (output, partial, partial), (tiles_m * (features // tiles['TILE_N']), members)
    y, *sums = _call('output', (x, w), results, grid, x.shape, output.shape, w, g, tiles)
    return _first(y, blocks), *(of_tiles.sum(0).reshape(blocks.members, -1) for of_tiles in sums)


def input_gradient(dy, w, x, g, tiles=TILES):
    """Returns the gradient of x."""
    blocks = _blocks(w, g)
    tiles, shape, grid = _gradient_tiles(w, x, blocks, g, tiles)
    dy, w = _beside(dy, blocks), blocks.kernels(w)
    dx = jax.ShapeDtypeStruct(shape, dy.dtype)
    return _first(_call('input_gradient', (dy, w), (dx,), grid, shape, dy.shape, w, g, tiles)[0], blocks)


class Shortcut(NamedTuple):
    """The result of a relu that added a shortcut, and its gradient by the next shortcut.

    Attributes:
      y: relu's result, [members, images, height, width, channels].
      gradient: of each `every`-th row and column of y, of its dtype, apart from what the convolution gives.
      every: the step between them; the first is 0.
    """

    y: jax.Array
    gradient: jax.Array
    every: int


def relu_gradient(dy, w, x, factor, addend, shortcut, g, tiles=TILES):
    """Returns the gradient of the argument of relu, whose result was convolved; and its float32 sums.

    Args:
      dy: gradient of the convolution's output, [members, images, height', width', features].
      w: its kernels, [members, kh, kw, channels / groups, features].
      x: [members, images, height, width, channels]; the argument is x * factor + addend, with a shortcut or
        without.
      factor: float32 [members, channels].
      addend: likewise.
      shortcut: None, or a `Shortcut`.
      g: the convolution's geometry.
      tiles: of the kernel.

    Returns:
      The gradient, like x, and its sums over images and pixels, [members, channels]: of itself (the gradient
      of addend), and of its product with x (that of factor).
    """
    blocks = _blocks(w, g)
    tiles, shape, grid = _gradient_tiles(w, x, blocks, g, tiles)
    dy, w, x = _beside(dy, blocks), blocks.kernels(w), _beside(x, blocks)
    factor, addend = (v.reshape(shape[-2:]) for v in (factor, addend))
    more = (_beside(v, blocks) for v in shortcut[:2]) if shortcut else (factor, factor)
    rows = grid[0] // (shape[-1] // tiles['TILE_N']) * grid[2]
    partial = jax.ShapeDtypeStruct((rows, *shape[-2:]), jnp.float32)
    results = jax.ShapeDtypeStruct(shape, dy.dtype), partial, partial
    operands = dy, w, x, factor, addend, *more
    tiles |= {'EVERY': shortcut.every if shortcut else 0}
    with jax.named_scope('relu_gradient'):  # by which `launch/bench compile` knows it
        dx, *sums = _call('relu_gradient', operands, results, grid, shape, dy.shape, w, g, tiles)
    return _first(dx, blocks), *(of_tiles.sum(0).reshape(blocks.members, -1) for of_tiles in sums)


def _gradient_tiles(w, x, blocks, g, tiles):
    """Returns the fitting tiles of an input's gradient, the shape that it has beside, and the grid."""
    images, *image, members, channels = shape = _beside_shape(x, blocks)
    tiles = _fitting(tiles, TILE_N=channels, TILE_K=w.shape[-1] // blocks.blocks)
    stride = g.strides[0]
    tiles_m = -(-images * math.prod(-(-n // stride) for n in image) // tiles['TILE_M'])
    return tiles, shape, (tiles_m * (channels // tiles['TILE_N']), members, stride**2)


def kernel_gradient(x, dy, w, g, tiles=TILES):
    """Returns the gradient of w."""
    blocks = _blocks(w, g)
    x, dy, w = _beside(x, blocks), _beside(dy, blocks), jax.eval_shape(blocks.kernels, w)
    members, *window, channels, features = w.shape
    tiles = _fitting(tiles, TILE_M=channels, TILE_N=features)
    count = math.prod(window) * (channels // tiles['TILE_M']) * (features // tiles['TILE_N'])
    dw = jax.ShapeDtypeStruct(w.shape, dy.dtype)
    found = _call('kernel_gradient', (x, dy), (dw,), (count, members), x.shape, dy.shape, w, g, tiles)[0]
    return blocks.of_groups(found)


def serves(dtype: Any) -> bool:
    """Whether `auto` runs convolutions of this dtype by these kernels, where they fit."""
    return available() and jnp.dtype(dtype) == jnp.bfloat16


def can_run(product: str, x: jax.Array | jax.ShapeDtypeStruct, w: jax.Array, g: Geometry) -> bool:
    """Whether the kernels are at hand and take these operands of a product (see `choice.choose`)."""
    members, *window, channels, features = w.shape
    if is_shared(x) and (product != 'forward' or g.groups > 1):
        return False
    if members == 1 or not serves(jnp.result_type(x, w)):
        return False
    blocks = _blocks(w, g)
    pixels = x.shape[-4] * math.prod(g.output_size(x.shape[-3:-1], tuple(window)))
    if max(x.size, blocks.groups * w.size, members * pixels * features) >= MOST:
        return False
    fits = channels * blocks.groups % SMALLEST == features // blocks.blocks % SMALLEST == 0
    return fits and g.strides[0] == g.strides[1]


def _call(kernel, operands, results, grid, x_shape, y_shape, w, g, tiles) -> list[jax.Array]:
    images, height, width, members, channels = x_shape
    sizes = {
        'MEMBERS': members, 'IMAGES': images, 'IN_H': height, 'IN_W': width, 'OUT_H': y_shape[1],
        'OUT_W': y_shape[2], 'CHANNELS': channels, 'FEATURES': y_shape[-1], 'KH': w.shape[1],
        'KW': w.shape[2], 'STRIDE': g.strides[0], 'PAD_H': g.padding[0][0], 'PAD_W': g.padding[1][0],
    }  # fmt: skip
    found = _launch(kernel, operands, results, grid, sizes | tiles)
    varying = tuple(sorted(jax.typeof(operands[0]).mat.varying))
    return [jax.lax.pcast(result, varying, to='varying') for result in found]


def _launch(kernel, operands, results, grid, constants) -> Sequence[jax.Array]:
    """Runs one of `implicit_kernels`. Triton is imported by those alone who have the extra."""
    import jax_triton

    from sreml_jax.model.conv import implicit_kernels

    return jax_triton.triton_call(
        *operands, kernel=getattr(implicit_kernels, kernel), out_shape=results, grid=grid,
        name=f'implicit_{kernel}', compute_capability=90, **constants,
    )  # fmt: skip


def _fitting(tiles: dict[str, int], **sizes: int) -> dict[str, int]:
    """Returns the tiles with the largest sizes that divide these."""
    return tiles | {name: math.gcd(size, tiles[name]) for name, size in sizes.items()}


def _blocks(w: jax.Array, g: Geometry) -> ChannelBlocks:
    """Returns the blocks of groups, which the kernels take as members; one is the whole member."""
    return ChannelBlocks.of(w.shape, g.groups, BLOCK)


def _beside_shape(x: jax.Array, blocks: ChannelBlocks) -> tuple[int, ...]:
    """Returns the shape of `_beside`."""
    members, images, height, width, channels = x.shape
    return images, height, width, members * blocks.blocks, channels // blocks.blocks


def _beside(x: jax.Array, blocks: ChannelBlocks) -> jax.Array:
    """[members, images, height, width, channels] -> [images, height, width, members * blocks, of each]."""
    return x.transpose(1, 2, 3, 0, 4).reshape(_beside_shape(x, blocks))


def _first(x: jax.Array, blocks: ChannelBlocks) -> jax.Array:
    """Inverts `_beside`."""
    return x.reshape(*x.shape[:3], blocks.members, -1).transpose(3, 0, 1, 2, 4)
