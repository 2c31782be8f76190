"""The convolutions and classifiers of an ensemble, seen without running it."""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from sreml_jax.model.ensemble import Ensemble

_BLOCK_INPUT_READERS = 'conv1', 'downsample_conv'  # what reads the block's own input


class Layer(NamedTuple):
    """A convolution or a classifier; shapes are those of one member and one image.

    Attributes:
      path: names of the modules that it is in, and its own: ('members', 'layer2', '0', 'conv1').
      inputs: shape of what it reads, [height, width, channels] or [channels].
      outputs: shape of what it makes, likewise.
      kernel: shape of its kernel.
      stride: of height and width; 1 for a classifier.
      groups: of channels.
      copies: how many members have one like it; 1 in the trunk.
      shared: all members read the same images, the trunk's output.
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
