"""Blocks and stages of the four backbones, as torchvision builds them.

Children carry torchvision's names (conv1, bn1, downsample, ...). Paddings are explicit and symmetric: XLA's
'SAME' pads strided convolutions differently.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from sreml_jax.model.affine import Input, Relu
from sreml_jax.model.batch_norm import BatchNorm
from sreml_jax.model.conv.moments import Convolved
from sreml_jax.model.relu_conv import ReluConvolved
from sreml_jax.runtime.xla import keep, strided


class Backbone(NamedTuple):
    """One ResNet: bottleneck blocks or basic ones, blocks a stage, and ResNeXt's groups x base width."""

    bottleneck: bool
    blocks: tuple[int, int, int, int]
    groups: int = 1
    group_width: int = 64


BACKBONES = {
    'resnet18': Backbone(False, (2, 2, 2, 2)),
    'resnet34': Backbone(False, (3, 4, 6, 3)),
    'resnet50': Backbone(True, (3, 4, 6, 3)),
    'resnext50_32x4d': Backbone(True, (3, 4, 6, 3), groups=32, group_width=4),
}


class Layers(NamedTuple):
    """How the layers of one part of the model are made.

    Attributes:
      train: BatchNorm uses the batch's statistics and updates the running ones.
      axis: name of the mapped axis that shares the batch, or None.
      dtype: of the computation; None takes the dtype of parameters and inputs.
      convolution: replaces `lax.conv_general_dilated`, or None. What it returns goes to `norm`, so it may be
        `conv.moments.Convolved`.
      relu_convolution: `relu_conv.conv`, which runs a convolution with the relu before it, or None.
      remat: compute a block's activations again in the backward pass instead of keeping them.
    """

    train: bool
    axis: str | None = None
    dtype: Any = None
    convolution: Callable[..., jax.Array | Convolved] | None = None
    relu_convolution: Callable[..., ReluConvolved] | None = None
    remat: bool = False

    def conv(
        self, x: Input, name: str, features: int, size: int, stride: int = 1, groups: int = 1
    ) -> jax.Array | Convolved:
        """Convolves x, padded by size // 2 on every side, without bias: BatchNorm follows."""
        return self.conv_and_input(x, name, features, size, stride, groups)[0]

    def conv_and_input(
        self, x: Input, name: str, features: int, size: int, stride: int = 1, groups: int = 1, every: int = 1
    ) -> tuple[jax.Array | Convolved, Any]:
        """As `conv`; also returns what a shortcut reads of x: each `every`-th row and column, as an array.

        None of a relu without a shortcut: it is in the middle of a block, where no shortcut begins.
        """
        run: Callable[..., Any] | None = self.convolution
        if isinstance(x, Relu):
            assert self.relu_convolution, 'or norms would have computed relu'
            run = functools.partial(self.relu_convolution, relu=x, every=every)
        convolve: Any = nn.Conv(
            features,
            (size, size),
            strides=stride,
            padding=size // 2,
            feature_group_count=groups,
            use_bias=False,
            dtype=self.dtype,
            conv_general_dilated=run,
            name=name,
        )
        return convolve(x.x) if isinstance(x, Relu) else (convolve(x), strided(x, every))

    def norm(self, name: str) -> BatchNorm:
        """Batch normalization over the whole batch, on however many devices it lies."""
        return BatchNorm(self.train, self.axis, self.dtype, name=name)

    def norm_relu(self, x: jax.Array | Convolved, name: str) -> Input:
        """Batch normalization and relu, for the next convolution."""
        norm = self.norm(name)
        return norm.before_relu(x, None) if self.relu_convolution else norm(x, relu=True)

    def end_of_block(self, x: jax.Array | Convolved, name: str, shortcut: jax.Array) -> Input:
        """Batch normalization, shortcut and relu; with `remat`, relu is computed within the block."""
        norm = self.norm(name)
        deferred = self.relu_convolution and not self.remat
        return norm.before_relu(x, shortcut) if deferred else norm(x, shortcut, relu=True)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. [batch, H, W, in] -> [batch, H / stride, W / stride, planes]."""

    planes: int
    stride: int
    backbone: Backbone
    layers: Layers

    @nn.compact
    def __call__(self, inputs: Input) -> Input:
        y, x = self.layers.conv_and_input(inputs, 'conv1', self.planes, 3, self.stride, every=self.stride)
        y = self.layers.conv(self.layers.norm_relu(y, 'bn1'), 'conv2', self.planes, 3)
        return self.layers.end_of_block(y, 'bn2', _shortcut(x, self.planes, self.stride, self.layers))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1. [batch, H, W, in] -> [batch, H/stride, W/stride, 4 planes]."""

    planes: int
    stride: int
    backbone: Backbone
    layers: Layers

    @nn.compact
    def __call__(self, inputs: Input) -> Input:
        width, groups = self.planes * self.backbone.group_width // 64, self.backbone.groups
        y, x = self.layers.conv_and_input(inputs, 'conv1', width * groups, 1, every=self.stride)
        y = self.layers.conv(self.layers.norm_relu(y, 'bn1'), 'conv2', width * groups, 3, self.stride, groups)
        y = self.layers.conv(self.layers.norm_relu(y, 'bn2'), 'conv3', 4 * self.planes, 1)
        return self.layers.end_of_block(y, 'bn3', _shortcut(x, 4 * self.planes, self.stride, self.layers))


def _shortcut(x: jax.Array, features: int, stride: int, layers: Layers) -> jax.Array:
    """Returns what is added to a block's output: x, convolved if the block changes its shape.

    x is each stride-th row and column of the block's input: a 1x1 convolution would read no others. Called
    in a block's scope.
    """
    if stride == 1 and x.shape[-1] == features:
        return x
    return layers.norm('downsample_bn')(layers.conv(x, 'downsample_conv', features, 1))


class Stage(nn.Module):
    """layer1 to layer4 (index 1 to 4) of a backbone; all but layer1 halve height and width.

    Attributes:
      width: channels of the stem; torchvision's is 64.
    """

    index: int
    backbone: Backbone
    layers: Layers
    width: int = 64

    @nn.compact
    def __call__(self, x: Input) -> Input:
        block = Bottleneck if self.backbone.bottleneck else BasicBlock
        if self.layers.remat:
            block = nn.remat(block)
        for i in range(self.backbone.blocks[self.index - 1]):
            stride = 2 if self.index > 1 and i == 0 else 1
            planes = self.width * 2 ** (self.index - 1)
            x = keep(block(planes, stride, self.backbone, self.layers, name=str(i))(x))
        return x


def channels(model_type: str, width: int) -> int:
    """Returns the number of features of a backbone's last stage; see `Stage` for the width."""
    return 8 * width * (4 if BACKBONES[model_type].bottleneck else 1)


def global_average_pool(x: jax.Array) -> jax.Array:
    """[batch, H, W, C] -> [batch, C], summed in at least float32."""
    return x.mean((1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32)).astype(x.dtype)


def generalized_mean_pool(x: jax.Array) -> jax.Array:
    """[batch, H, W, C] -> [batch, C]: the cube root of the mean cube, in at least float32.

    GeM of Radenovic et al. 2019 with its usual power, not learned: between the mean and the maximum. `x` is
    what relu gave; zeros are raised a little, as the root has no gradient there.
    """
    cubes = jnp.maximum(x.astype(jnp.promote_types(x.dtype, jnp.float32)), 1e-6) ** 3
    return jnp.cbrt(cubes.mean((1, 2))).astype(x.dtype)


POOLS = {'average': global_average_pool, 'gem': generalized_mean_pool}


def max_pool(x: jax.Array) -> jax.Array:
    """3x3/2 max-pool padded by 1, of what relu gave: [batch, H, W, C] -> [batch, ceil(H/2), ceil(W/2), C].

    By slices, because XLA is slow at the gradient of a window's maximum on a CPU. Zeros may pad what is not
    negative; equal maxima share the gradient.
    """
    for axis in (1, 2):
        edges = [(0, 0, 0)] * x.ndim
        edges[axis] = (1, 1, 0)
        size, padded = (x.shape[axis] + 1) // 2, lax.pad(x, jnp.zeros((), x.dtype), edges)
        shifted = [lax.slice_in_dim(padded, i, i + 2 * size - 1, 2, axis) for i in range(3)]
        x = functools.reduce(jnp.maximum, shifted)
    return x
