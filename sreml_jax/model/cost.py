"""Counts what an ensemble costs without running it: layers, arithmetic and activations."""

import itertools
import math
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sreml_jax.model.conv import choice, winograd
from sreml_jax.model.conv.channel_blocks import ChannelBlocks
from sreml_jax.model.ensemble import Ensemble

_BLOCK_INPUT_READERS = 'conv1', 'downsample_conv'


class Layer(NamedTuple):
    """A convolution or a classifier; shapes are those of one member and one image.

    Attributes:
      path: names of the modules around it, and its own: ('members', 'layer2', '0', 'conv1').
      inputs: shape of its input, [height, width, channels] or [channels].
      outputs: shape of its output, [height, width, features] or [features].
      kernel: shape of its kernel.
      stride: of height and width; 1 for a classifier.
      groups: of channels.
      copies: number of members that have one; 1 in the trunk.
      shared: whether all members read the same images, the trunk's output.
    """

    path: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int
    groups: int
    copies: int
    shared: bool


def layers(model: Ensemble, image_size: int) -> list[Layer]:
    """Returns all layers with a kernel, in the order in which images pass them."""
    found = []

    def record(call, args, kwargs, context):
        out = call(*args, **kwargs)
        module = context.module
        if context.method_name == '__call__' and isinstance(module, nn.Conv | nn.Dense):
            inputs, outputs = args[0].shape[1:], out.shape[1:]
            kernel: tuple[int, ...] = (inputs[-1], outputs[-1])
            stride = groups = 1
            if isinstance(module, nn.Conv):
                stride, groups = cast(int, module.strides), module.feature_group_count
                kernel = *cast(tuple[int, int], module.kernel_size), inputs[-1] // groups, outputs[-1]
            shared = module.path[:3] == ('members', 'layer2', '0') and module.name in _BLOCK_INPUT_READERS
            copies = model.members if module.path[0] == 'members' else 1  # vmap shows one
            found.append(Layer(module.path, inputs, outputs, kernel, stride, groups, copies, shared))
        return out

    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(model.clone(conv='grouped', remat=False).init, jax.random.key(0), images)
    return found


def forward_flops(model: Ensemble, image_size: int) -> int:
    """Counts the floating-point operations of one image's forward pass, in convolutions and classifiers.

    A multiplication and an addition count as two. The backward pass takes twice as many.
    """
    return sum(
        2 * layer.copies * math.prod(layer.outputs[:-1]) * math.prod(layer.kernel)
        for layer in layers(model, image_size)
    )


def kept_bytes(model: Ensemble, image_size: int, batch: int, by_kernels: bool = False) -> dict[str, int]:
    """Returns the bytes by kind that a training step keeps for its backward pass, at their greatest.

    A step keeps the input and the output of every convolution and, on a CPU, the tiles and kernels of
    Winograd's products: XLA computes them once for both passes. With `model.remat` a block keeps only its
    input until its backward pass. `by_kernels`: members compute the inputs of convolutions in groups again.
    The pixels that a shortcut's convolution reads are not counted: they are a fortieth of the sum at most.
    Checked against XLA's compilers (`tests/test_needs.py`).
    """
    kept, most = np.zeros(2, int), np.zeros(2, int)  # elements of activations, and of Winograd
    for block, of_block in itertools.groupby(layers(model, image_size), lambda layer: layer.path[:-1]):
        convolutions = [layer for layer in of_block if len(layer.inputs) == 3]
        own = np.zeros(2, int)
        for layer in convolutions:
            inputs = 0 if by_kernels and layer.groups > 1 < layer.copies else _inputs(layer, batch)
            own += inputs + _outputs(layer, batch), _winograd(layer, batch, model.conv)
        most = max(most, kept + own, key=sum)
        remat = model.remat and len(block) > 1
        kept += (_inputs(convolutions[0], batch), 0) if remat else own
    activations, tiles = most.tolist()
    # XLA's CPU compiler keeps the float32 that it converts bfloat16 to.
    size = max(4, model.dtype.itemsize) if jax.default_backend() == 'cpu' else model.dtype.itemsize
    kinds = {'activations': activations * size, "Winograd's tiles and kernels": tiles * max(4, size)}
    return {kind: n for kind, n in kinds.items() if n}


def forward_bytes(model: Ensemble, image_size: int, batch: int) -> int:
    """Returns the least bytes of a forward pass: input and output of its largest convolution."""
    size = model.dtype.itemsize if model.dtype else 4
    convolutions = [layer for layer in layers(model, image_size) if len(layer.inputs) == 3]
    return size * max(_inputs(layer, batch) + _outputs(layer, batch) for layer in convolutions)


def _inputs(layer: Layer, batch: int) -> int:
    if layer.path[-1] == 'downsample_conv':  # it reads pixels of the input of the block's conv1
        return 0
    return math.prod(layer.inputs) * batch * (1 if layer.shared else layer.copies)


def _outputs(layer: Layer, batch: int) -> int:
    return math.prod(layer.outputs) * batch * layer.copies


def _winograd(layer: Layer, batch: int, algorithm: str) -> int:
    kernel, size = layer.kernel[:2], layer.outputs[:2]
    if algorithm != 'auto' and layer.path[0] == 'trunk':  # XLA's own convolution runs then, see `Ensemble`
        return 0
    if algorithm == 'auto':
        kind = layer.copies, size, layer.kernel, layer.stride, layer.groups, layer.shared
        algorithm = choice.choose(jax.default_backend(), 'kernel_gradient', *kind)
    if algorithm != 'winograd' or kernel != (3, 3):
        return 0
    blocks = ChannelBlocks.of((layer.copies, *layer.kernel), layer.groups)
    filled = math.prod(layer.kernel[2:]) * layer.copies * blocks.groups  # a block's kernel has zeros too
    products = len(winograd.TRANSFORMS[layer.stride].kernel) ** 2
    tiles = math.prod(-(-n // 2) for n in size) * batch * layer.inputs[-1]
    return products * (tiles * (1 if layer.shared else layer.copies) + filled)
