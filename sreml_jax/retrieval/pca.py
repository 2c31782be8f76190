"""PCA and whitening, fitted on training images, reduce embeddings to fewer dimensions."""

import hashlib
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from sreml_jax.runtime import files
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.xla import BY_LIBRARY

FILES = {
    'logits': 'shrinking.npz',
    'pooled': 'shrinking_pooled.npz',
}  # by config.embedding; the names are older than this module's
DIMENSIONS = (512, 128, 64)  # that an evaluation reports
IMAGES = 10_000  # at most, to fit on


class PCA(NamedTuple):
    """A projection that reduces the embeddings of one checkpoint to fewer dimensions.

    Attributes:
      mean: float32 [d], of the training embeddings.
      axes: float32 [n, d]; the principal axes, the greatest variance first, each divided by its standard
        deviation. An axis without variance is 0.
      bounds: float32 [n]; the greatest absolute value in training embeddings of 1, 2, ... n dimensions.
    """

    mean: np.ndarray
    axes: np.ndarray
    bounds: np.ndarray

    def __call__(self, embeddings: jax.typing.ArrayLike, dimensions: int) -> jax.Array:
        """Reduces float32 [images, d] to [images, dimensions], rows of unit length."""
        return _reduced(embeddings, self.mean, self.axes[:dimensions])

    def traced(self, embeddings: jax.Array, dimensions: int) -> jax.Array:
        """As a call, within a program that is being compiled."""
        return _of_unit_length(embeddings, self.mean, self.axes[:dimensions])

    def digest(self, dimensions: int) -> str:
        """Returns a hash of what reduces embeddings to so many dimensions."""
        used = (self.mean, self.axes[:dimensions])
        return hashlib.sha256(b''.join(np.asarray(x, '<f4').tobytes() for x in used)).hexdigest()[:32]

    def only(self, dimensions: int) -> 'PCA':
        """Returns the PCA with further axes set to 0: other dimensions, but the same shapes and program."""
        first = np.arange(len(self.axes)) < dimensions
        return self._replace(axes=self.axes * first[:, None].astype(np.float32))


class Reduced(NamedTuple):
    """Recall@1, 0..1, of embeddings with some number of dimensions, stored in some bytes per image."""

    dimensions: int
    storage: str
    image_bytes: int
    recall: float


def fit(embeddings: np.ndarray, dimensions: int) -> PCA:
    """Fits the axes on training embeddings (Jegou and Chum 2012: whitening removes what members share).

    Args:
      embeddings: float32 [images, d].
      dimensions: how many axes to fit; fewer than images, at most d.
    """
    mean = embeddings.mean(0, dtype=np.float64).astype(np.float32)
    centered = embeddings - mean
    images, d = centered.shape
    # Both products have the same non-zero eigenvalues; the smaller one is cheaper.
    wide = images < d
    product = (centered @ centered.T if wide else centered.T @ centered).astype(np.float64)
    greatest = len(product) - dimensions, len(product) - 1
    squares, vectors = (x[..., ::-1] for x in linalg.eigh(product, subset_by_index=greatest))
    varies = squares > 1e-6 * squares[0]
    length = np.sqrt(np.where(varies, squares, 1))
    axes = vectors.T.astype(np.float32)
    if wide:
        axes = axes @ centered / length[:, None]
    axes = axes * (varies * np.sqrt(images - 1) / length)[:, None]
    axes = axes.astype(np.float32)
    whitened = np.asarray(_whitened(embeddings, mean, axes))
    greatest_so_far = np.maximum.accumulate(np.abs(whitened), 1)
    lengths = np.sqrt(np.cumsum(whitened**2, 1))
    bounds = (greatest_so_far / np.maximum(lengths, 1e-12)).max(0)
    return PCA(mean, axes, bounds)


def names() -> list[str]:
    """Returns the name of every file that `save` may write."""
    return [path_of(Path(), embedding, mirrored).name for embedding in FILES for mirrored in (False, True)]


def path_of(folder: Path, embedding: str, mirrored: bool) -> Path:
    """Returns the file for embeddings by the config's `embedding` and `mirrored`."""
    path = folder / FILES[embedding]
    return path.with_stem(f'{path.stem}_mirrored') if mirrored else path


def save(folder: Path, embedding: str, pca: PCA, fingerprint: str, *, mirrored: bool = False) -> None:
    """Writes `path_of`, atomically; `fingerprint` is the checkpoint's."""
    with files.atomic_write(path_of(folder, embedding, mirrored)) as temporary, temporary.open('wb') as file:
        np.savez(file, fingerprint=fingerprint, **pca._asdict())


def load(
    folder: Path, embedding: str, dimensions: int, fingerprints: tuple[str, ...], *, mirrored: bool = False
) -> PCA:
    """Reads what `save` wrote for a checkpoint with any of the fingerprints.

    Raises:
      UserError: the file is missing or damaged, has fewer dimensions, or belongs to another checkpoint.
    """
    path = path_of(folder, embedding, mirrored)
    with_mirror = ' --config.mirrored=True' if mirrored else ''
    advice = (
        f'make it by --mode=eval --config.embedding={embedding}{with_mirror} '
        f'--config.embedding_dim={dimensions}'
    )
    try:
        with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
            saved = dict(arrays)
        made_of, pca = saved.pop('fingerprint'), PCA(**saved)
    except FileNotFoundError:
        raise UserError(
            f'config.embedding_dim={dimensions} needs {path}, which is not there; {advice}'
        ) from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f'{path} cannot be read ({error}); {advice}') from error
    if str(made_of) not in fingerprints:
        raise UserError(f'{path} belongs to another checkpoint; {advice}')
    if len(pca.axes) < dimensions:
        raise UserError(f'{path} gives at most {len(pca.axes)} dimensions; {advice}')
    return pca


def _centered(embeddings, mean, axes):
    return jnp.matmul(embeddings - mean, axes.T, precision='highest')


def _of_unit_length(embeddings, mean, axes):
    x = _centered(embeddings, mean, axes)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)


_whitened = jax.jit(_centered, compiler_options=BY_LIBRARY)
_reduced = jax.jit(_of_unit_length, compiler_options=BY_LIBRARY)
