"""How much of the forward pass a training step keeps for the backward pass."""

import itertools
import math

import jax
import numpy as np

from sreml_jax.model import conv_table, winograd
from sreml_jax.model.channel_blocks import ChannelBlocks
from sreml_jax.model.ensemble import Ensemble
from sreml_jax.model.layers import Layer, layers


def kept_bytes(model: Ensemble, image_size: int, batch: int) -> dict[str, int]:
    """Returns bytes by kind, of one batch and all members, at the backward pass's greatest moment.

    The input and the output of every convolution are kept, and on a CPU the tiles and kernels of Winograd's
    products: XLA computes them once for both passes. With `model.remat` a block keeps its input alone, until
    its turn comes. Checked against XLA's CPU compiler alone (`tests/test_describe.py`).
    """
    kept, most = np.zeros(2, int), np.zeros(2, int)  # numbers: activations, and those of Winograd
    for block, of_block in itertools.groupby(layers(model, image_size), lambda layer: layer.path[:-1]):
        convolutions = [layer for layer in of_block if len(layer.inputs) == 3]
        own = np.zeros(2, int)
        for layer in convolutions:
            own += _inputs(layer, batch) + _outputs(layer, batch), _winograd(layer, batch, model.conv)
        most = max(most, kept + own, key=sum)
        remat = model.remat and len(block) > 1
        kept += (_inputs(convolutions[0], batch), 0) if remat else own
    activations, tiles = most.tolist()
    # XLA's CPU compiler keeps what it converts bfloat16 to.
    size = max(4, model.dtype.itemsize) if jax.default_backend() == 'cpu' else model.dtype.itemsize
    kinds = {'activations': activations * size, "Winograd's tiles and kernels": tiles * max(4, size)}
    return {kind: n for kind, n in kinds.items() if n}


def _inputs(layer: Layer, batch: int) -> int:
    if layer.path[-1] == 'downsample_conv':  # it reads what the block's conv1 reads
        return 0
    return math.prod(layer.inputs) * batch * (1 if layer.shared else layer.copies)


def _outputs(layer: Layer, batch: int) -> int:
    return math.prod(layer.outputs) * batch * layer.copies


def _winograd(layer: Layer, batch: int, way: str) -> int:
    kernel, size = layer.kernel[:2], layer.outputs[:2]
    if way != 'auto' and layer.path[0] == 'trunk':  # XLA's own convolution then, see `Ensemble`
        return 0
    if way == 'auto':
        kind = layer.copies, size, kernel, layer.groups, layer.shared
        way = conv_table.choose(jax.default_backend(), 'kernel_gradient', *kind)
    if way != 'winograd' or kernel != (3, 3):
        return 0
    blocks = ChannelBlocks.of((layer.copies, *layer.kernel), layer.groups)
    filled = math.prod(layer.kernel[2:]) * layer.copies * blocks.groups  # a block's kernel has zeros too
    products = len(winograd.ALGORITHMS[layer.stride].kernel) ** 2
    tiles = math.prod(-(-n // 2) for n in size) * batch * layer.inputs[-1]
    return products * (tiles * (1 if layer.shared else layer.copies) + filled)
