"""Changes of the recipe that `trials.py` tries; what helps moves into the program, the others stay here.

Each of `CANDIDATES` is a context in which the program trains and evaluates in that way.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from PIL import Image

from sreml_jax.data import dataset as datasets
from sreml_jax.data.in_memory import ArrayDataset
from sreml_jax.model import ensemble
from sreml_jax.model.resnet import POOLS, Stage, generalized_mean_pool, global_average_pool
from sreml_jax.training import loss, optimizer, step

Context = contextlib.AbstractContextManager


def average_and_maximum(x: jax.Array) -> jax.Array:
    """[batch, H, W, C] -> [batch, C]: the mean plus the maximum, as ProxyAnchor's code pools."""
    return global_average_pool(x) + x.max((1, 2))


def pooled_by(pool: Callable[[jax.Array], jax.Array]) -> Context:
    """Members pool by `pool` where the config says gem."""
    return mock.patch.dict(POOLS, gem=pool)


class Cosine(nn.Module):
    """Logits as cosines with one proxy a meta class, divided by a temperature (Zhai and Wu 2019)."""

    features: int
    temperature: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param('kernel', nn.initializers.lecun_normal(), (x.shape[-1], self.features))
        return unit(x) @ unit(kernel, 0) / self.temperature


def unit(x: jax.Array, axis: int = -1) -> jax.Array:
    """Scales vectors along `axis` to length 1; has a gradient at 0, which `ensemble.unit` lacks."""
    return x / jnp.sqrt(jnp.square(x).sum(axis, keepdims=True) + 1e-12)


def head(temperature: float = 0, layer_norm: bool = False) -> Context:
    """Members with cosine logits (0: plain ones), and features normalized by a layer norm without factors.

    NormSoftmax (Zhai and Wu 2019) and ProxyNCA++ (Teh et al. 2020) have both. The embedding is made of what
    the classifier sees.
    """

    class Member(ensemble.Member):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for index in (2, 3, 4):
                x = Stage(index, self.backbone, self.layers, self.width, name=f'layer{index}')(x)
            x = POOLS[self.pool](x)
            if layer_norm:
                x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
            if self.meta_classes is None:
                return x
            if temperature:
                return Cosine(self.meta_classes, temperature, name='fc')(x)
            return nn.Dense(self.meta_classes, name='fc')(x)

    return mock.patch.object(ensemble, 'Member', Member)


def frozen_trunk() -> Context:
    """The trunk normalizes by its pretrained statistics, in training too."""
    trunk = ensemble.Trunk

    def made(backbone, layers, width, stem, name):
        return trunk(backbone, layers._replace(train=False), width, stem, name=name)

    return mock.patch.object(ensemble, 'Trunk', made)


@contextlib.contextmanager
def balanced(images: int) -> Iterator[None]:
    """A batch has `images` of each of its classes, as pytorch-metric-learning's MPerClassSampler draws it."""

    def epoch_order(seed, epoch, labels, max_images_per_class=0):
        rng = np.random.default_rng((seed, epoch))
        groups = []
        for label in np.unique(labels):
            own = rng.permutation(np.flatnonzero(labels == label))
            groups += [own[i : i + images] for i in range(0, len(own), images)]
        order = np.concatenate([groups[i] for i in rng.permutation(len(groups))])
        return order, rng.random(len(order)) < 0.5

    with mock.patch.object(datasets, 'epoch_order', epoch_order):
        yield


@contextlib.contextmanager
def crops(least: float) -> Iterator[None]:
    """Training images are random crops of larger ones, at least this share of their area."""
    read = ArrayDataset.read
    rng = np.random.default_rng(0)

    def crop(image: np.ndarray, size: int) -> np.ndarray:
        height, width = image.shape[:2]
        area, ratio = rng.uniform(least, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = (min(1.0, np.sqrt(area * r)) for r in (ratio, 1 / ratio))
        left, top = rng.uniform(0, 1 - w) * width, rng.uniform(0, 1 - h) * height
        box = (left, top, left + w * width, top + h * height)
        return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box))

    def cropped(self, split, parts, batch_size):
        size = self._images['test'].shape[1]
        for batch in read(self, split, parts, batch_size):
            yield np.stack([crop(image, size) for image in batch]) if split == 'train' else batch

    with mock.patch.object(ArrayDataset, 'read', cropped):
        yield


def proxies_at(factor: float) -> Context:
    """The classifiers learn at `factor` times the rate (ProxyNCA++, ProxyAnchor)."""
    adam = optimizer.adam

    def made(rate):
        def label(params):
            return jax.tree_util.tree_map_with_path(
                lambda path, _: 'fast' if any(getattr(k, 'key', '') == 'fc' for k in path) else 'slow', params
            )

        return optax.multi_transform({'slow': adam(rate), 'fast': adam(lambda n: factor * rate(n))}, label)

    return mock.patch.object(optimizer, 'adam', made)


def together(weight: float) -> Context:
    """Members learn from each other: each one's similarities in a batch draw near the mean of all.

    As relational distillation (Park et al. 2019) with the ensemble's mean, held constant, as the teacher.
    """
    plain = loss.cross_entropy

    def with_neighbors(logits, meta_labels, smoothing=0.0):
        x = unit(logits.astype(jnp.float32) - logits.mean(-1, keepdims=True))
        similarity = jnp.einsum('bmd,cmd->bcm', x, x)
        teacher = jax.lax.stop_gradient(similarity.mean(-1, keepdims=True))
        return plain(logits, meta_labels, smoothing) + weight * jnp.square(similarity - teacher).mean(1)

    return mock.patch.object(step, 'cross_entropy', with_neighbors)


def powered(power: float) -> Callable[[jax.Array], jax.Array]:
    """Returns generalized-mean pooling by another power."""

    def pool(x: jax.Array) -> jax.Array:
        return (jnp.maximum(x, 1e-6) ** power).mean((1, 2)) ** (1 / power)

    return pool


CANDIDATES: dict[str, Callable[[], Context]] = {
    'average and maximum': functools.partial(pooled_by, average_and_maximum),
    'gem and average': functools.partial(
        pooled_by, lambda x: generalized_mean_pool(x) + global_average_pool(x)
    ),
    'gem 5': functools.partial(pooled_by, powered(5.0)),
    'layer norm': functools.partial(head, 0, True),
    'cosine 0.05': functools.partial(head, 0.05),
    'cosine 0.1': functools.partial(head, 0.1),
    'cosine 0.05, layer norm': functools.partial(head, 0.05, True),
    'cosine 0.1, layer norm': functools.partial(head, 0.1, True),
    'fast proxies': functools.partial(proxies_at, 10.0),
    'balanced': functools.partial(balanced, 3),
    'crops': functools.partial(crops, 0.5),
    'wide crops': functools.partial(crops, 0.16),
    'frozen trunk': frozen_trunk,
    'together': functools.partial(together, 1.0),
}
