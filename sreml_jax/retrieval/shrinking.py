"""Embeddings of fewer numbers: PCA and whitening, fitted on embeddings of training images."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from sreml_jax import disk_faults
from sreml_jax.errors import UserError

FILES = {'logits': 'shrinking.npz', 'pooled': 'shrinking_pooled.npz'}  # by config.embedding
DIMENSIONS = (512, 128, 64)  # that an evaluation tells of
IMAGES = 10_000  # to fit on, at most


class Shrinking(NamedTuple):
    """What makes embeddings of one checkpoint shorter.

    Attributes:
      mean: float32 [d], of the training embeddings.
      axes: float32 [n, d]; their principal axes, that of the greatest variance first, each divided by its
        deviation. One along which they do not vary is 0.
      bounds: float32 [n]; the greatest number in a training embedding that is shrunk to 1, 2, ... n numbers.
    """

    mean: np.ndarray
    axes: np.ndarray
    bounds: np.ndarray

    def __call__(self, embeddings: jax.typing.ArrayLike, dimensions: int) -> jax.Array:
        """Shrinks float32 [images, d] to [images, dimensions], rows of unit length again."""
        return _unit(_whitened(embeddings, self.mean, self.axes[:dimensions]))


class Shrunk(NamedTuple):
    """Recall@1, 0..1, of embeddings of so many numbers, stored in so many bytes an image."""

    dimensions: int
    storage: str
    image_bytes: int
    recall: float


def fit(embeddings: np.ndarray, dimensions: int) -> Shrinking:
    """Fits the axes on training embeddings (Jegou and Chum 2012: whitening takes out what members share).

    Args:
      embeddings: float32 [images, d].
      dimensions: of the longest that are wanted; less than images, at most d.
    """
    mean = embeddings.mean(0, dtype=np.float64).astype(np.float32)
    centred = embeddings - mean
    images, d = centred.shape
    # The smaller of the two products has the same variances.
    wide = images < d
    product = (centred @ centred.T if wide else centred.T @ centred).astype(np.float64)
    greatest = len(product) - dimensions, len(product) - 1
    squares, vectors = (x[..., ::-1] for x in linalg.eigh(product, subset_by_index=greatest))
    varies = squares > 1e-6 * squares[0]
    length = np.sqrt(np.where(varies, squares, 1))
    axes = vectors.T.astype(np.float32)
    if wide:
        axes = axes @ centred / length[:, None]
    axes = axes * (varies * np.sqrt(images - 1) / length)[:, None]
    axes = axes.astype(np.float32)
    numbers = np.asarray(_whitened(embeddings, mean, axes))
    greatest_so_far = np.maximum.accumulate(np.abs(numbers), 1)
    lengths = np.sqrt(np.cumsum(numbers**2, 1))
    bounds = (greatest_so_far / np.maximum(lengths, 1e-12)).max(0)
    return Shrinking(mean, axes, bounds)


def save(folder: Path, embedding: str, shrinking: Shrinking, fingerprint: str) -> None:
    """Writes <folder>/<file of config.embedding>, whole or not at all; `fingerprint` is of the checkpoint."""
    with disk_faults.whole(folder / FILES[embedding]) as temporary, temporary.open('wb') as file:
        np.savez(file, fingerprint=fingerprint, **shrinking._asdict())


def load(folder: Path, embedding: str, dimensions: int, fingerprint: str) -> Shrinking:
    """Reads what `save` wrote; raises UserError where it is missing, damaged, too short or another's."""
    path = folder / FILES[embedding]
    advice = f'make it by --mode=eval --config.embedding={embedding} --config.embedding_dim={dimensions}'
    try:
        with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
            saved = dict(arrays)
        made_of, shrinking = saved.pop('fingerprint'), Shrinking(**saved)
    except FileNotFoundError:
        raise UserError(
            f'config.embedding_dim={dimensions} needs {path}, which is not there; {advice}'
        ) from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f'{path} can not be read ({error}); {advice}') from error
    if made_of != fingerprint:
        raise UserError(f'{path} is of another checkpoint; {advice}')
    if len(shrinking.axes) < dimensions:
        raise UserError(f'{path} makes at most {len(shrinking.axes)} numbers; {advice}')
    return shrinking


@jax.jit
def _whitened(embeddings, mean, axes):
    return jnp.matmul(embeddings - mean, axes.T, precision='highest')


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)
