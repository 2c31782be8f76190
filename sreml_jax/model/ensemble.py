"""The ensemble: one shared trunk, and all members as one vmapped module."""

import functools
import math
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike

from sreml_jax.model import relu_conv
from sreml_jax.model.affine import Input, computed
from sreml_jax.model.conv import implicit, member_conv
from sreml_jax.model.resnet import BACKBONES, POOLS, Backbone, Layers, Stage, channels, max_pool


class Trunk(nn.Module):
    """conv1, bn1, relu, max-pool, layer1: [batch, H, W, 3] -> [batch, H / 4, W / 4, C].

    The 'small' stem is a 3x3 convolution of stride 1 without max-pool, which keeps H and W.
    """

    backbone: Backbone
    layers: Layers
    width: int
    stem: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = (3, 1) if self.stem == 'small' else (7, 2)
        x = self.layers.norm('bn1')(self.layers.conv(x, 'conv1', self.width, *size), relu=True)
        if self.stem == 'imagenet':
            x = max_pool(x)
        layer1 = Stage(1, self.backbone, self.layers, self.width, name='layer1')
        return cast(jax.Array, layer1(x))  # no relu is deferred here


class Member(nn.Module):
    """layer2, layer3, layer4, pool and classifier: the trunk's output -> logits [batch, meta classes].

    Without meta classes there is no classifier: -> pooled features [batch, channels].
    """

    backbone: Backbone
    layers: Layers
    width: int
    meta_classes: int | None
    pool: str

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        x: Input = inputs
        for index in (2, 3, 4):
            x = Stage(index, self.backbone, self.layers, self.width, name=f'layer{index}')(x)
        pooled = POOLS[self.pool](computed(x, self.layers.dtype))
        if self.meta_classes is None:
            return pooled
        return nn.Dense(self.meta_classes, dtype=self.layers.dtype, name='fc')(pooled)


class Ensemble(nn.Module):
    """Maps images to the outputs of all members. Initial values: see `init`.

    Attributes:
      model_type: a key of `resnet.BACKBONES`.
      members: their number, the leading axis of every member parameter.
      meta_classes: logits of each member.
      width: channels of the stem; torchvision's is 64.
      stem: 'imagenet' or 'small', see `Trunk`.
      dtype: of the computation; None takes the dtype of parameters and images.
      conv: algorithm of the member convolutions, see `member_conv`.
      axis: name of the mapped axis that shares the batch in training, or None.
      remat: compute activations inside blocks again in the backward pass: less memory, more work.
      pool: a key of `resnet.POOLS`: how a member pools its last features.
      embedding: 'logits' (the seed) or 'pooled', the features before them.
      mirrored: embed an image together with its mirror image, see `embeddings`.
    """

    model_type: str
    members: int
    meta_classes: int
    width: int = 64
    stem: str = 'imagenet'
    dtype: Any = None
    conv: str = 'auto'
    axis: str | None = None
    remat: bool = False
    pool: str = 'average'
    embedding: str = 'logits'
    mirrored: bool = False

    @property
    def dimensions(self) -> int:
        """The dimensions of an embedding: those of all members."""
        of_member = member_dimensions(self.embedding, self.model_type, self.width, self.meta_classes)
        return self.members * of_member

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Images, normalized, [batch, H, W, 3] -> logits [batch, members, meta classes].

        If the embedding is made of pooled features, returns them outside training: [batch, members,
        channels].
        """
        backbone = BACKBONES[self.model_type]
        layers = Layers(train, self.axis, self.dtype, remat=self.remat)
        # An algorithm that the config forces runs the members; XLA runs the trunk then.
        of_trunk = layers._replace(convolution=member_conv.trunk_conv if self.conv == 'auto' else None)
        x = Trunk(backbone, of_trunk, self.width, self.stem, name='trunk')(images)
        members = nn.vmap(
            Member,
            variable_axes={'params': 0, 'batch_stats': 0},
            split_rngs={'params': True},
            in_axes=None,
            out_axes=1,
            axis_size=self.members,
        )
        layers = layers._replace(convolution=functools.partial(member_conv.conv, algorithm=self.conv))
        if train and self.conv == 'auto' and implicit.serves(self.dtype or jnp.float32):
            layers = layers._replace(
                convolution=member_conv.conv_and_moments, relu_convolution=relu_conv.conv
            )
        # Initialization includes the classifier.
        classify = train or self.embedding == 'logits' or self.is_initializing()
        meta_classes = self.meta_classes if classify else None
        return members(backbone, layers, self.width, meta_classes, self.pool, name='members')(x)


def member_dimensions(embedding: str, model_type: str, width: int, meta_classes: int) -> int:
    """Returns the dimensions of one member's part of an embedding; see `Ensemble` for the arguments."""
    return meta_classes if embedding == 'logits' else channels(model_type, width)


def normalize(images: jax.Array, mean: ArrayLike, std: ArrayLike) -> jax.Array:
    """uint8 [..., 3] -> float32, by the RGB mean and deviation of pixel values in 0..1."""
    return (images.astype(jnp.float32) / 255 - mean) / std


def embeddings(model: Ensemble, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """Embeds normalized images [batch, H, W, 3]: -> [batch, model.dimensions], of unit length.

    If the model is mirrored, each member's outputs are the sum of the unit vectors of an image and of its
    mirror image, as classifiers are averaged over both (Krizhevsky et al. 2012). It takes twice the work.
    """
    if not model.mirrored:
        return embed(cast(jax.Array, model.apply(variables, images)))
    both = cast(jax.Array, model.apply(variables, jnp.concatenate([images, images[:, :, ::-1]])))
    return embed(unit(both).reshape(2, *images.shape[:1], *both.shape[1:]).sum(0))


def embed(outputs: jax.Array) -> jax.Array:
    """Logits or features [batch, members, n] -> embedding of unit length, [batch, members * n].

    L2-normalizes each member's outputs and concatenates all (the seed, and DREML before it), in at least
    float32. Outputs that are all zero stay zero.
    """
    return unit(outputs).reshape(outputs.shape[0], -1) / math.sqrt(outputs.shape[1])


def unit(x: jax.Array) -> jax.Array:
    """Scales vectors [..., n] to length 1, in at least float32; zeros stay zero."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.maximum(norm, jnp.finfo(x.dtype).tiny)
