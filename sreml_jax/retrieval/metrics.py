"""MAP@R and R-precision, and raw pixels as the embedding that a model has to beat."""

from collections.abc import Sequence

import jax
import numpy as np

from sreml_jax.retrieval.search import nearest


def correct_neighbours(
    query: np.ndarray,
    gallery: np.ndarray,
    query_labels: np.ndarray,
    gallery_labels: np.ndarray,
    *,
    same: bool,
    devices: Sequence[jax.Device] | None = None,
    chunk: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Tells which of each query's R nearest neighbours are correct; arguments as of `recall.ranks`.

    Returns:
      correct: bool [queries, greatest R], the nearest first.
      relevant: int [queries], R: how many correct matches the gallery holds of each query.
    """
    query_labels, gallery_labels = np.asarray(query_labels), np.asarray(gallery_labels)
    classes, count = np.unique(gallery_labels, return_counts=True)
    at = np.minimum(np.searchsorted(classes, query_labels), len(classes) - 1)
    relevant = np.where(classes[at] == query_labels, count[at] - same, 0)
    indices, _ = nearest(query, gallery, int(relevant.max()), same=same, devices=devices, chunk=chunk)
    return gallery_labels[indices] == query_labels[:, None], relevant


def r_precision(correct: np.ndarray, relevant: np.ndarray) -> float:
    """Computes R-precision (Musgrave et al. 2020): the share of correct ones among the R nearest neighbours.

    The mean over queries is taken.

    Args:
      correct: bool [queries, at least the greatest R]; whether each neighbour is correct, the nearest first.
      relevant: int [queries]; R, the correct matches that the gallery holds. A query without one counts as 0.
    """
    correct = correct & (np.arange(correct.shape[1]) < relevant[:, None])
    return float(np.mean(correct.sum(1) / np.maximum(relevant, 1)))


def map_at_r(correct: np.ndarray, relevant: np.ndarray) -> float:
    """Computes MAP@R (Musgrave et al. 2020, "A Metric Learning Reality Check").

    Of one query: the sum, over the correct ones among its R nearest neighbours, of the precision up to each,
    divided by R. Then the mean over queries. Arguments as of `r_precision`.
    """
    place = np.arange(1, correct.shape[1] + 1)
    correct = correct & (place <= relevant[:, None])
    precision = np.cumsum(correct, 1) / place
    return float(np.mean((precision * correct).sum(1) / np.maximum(relevant, 1)))


def raw_pixels(images: np.ndarray) -> np.ndarray:
    """Flattens uint8 [n, H, W, 3] to float32 [n, H*W*3] of unit length: the cosine of the pixels as they are.

    Nothing is subtracted. An image that is black all over is 0, as similar to all.
    """
    flat = images.reshape(len(images), -1).astype(np.float32)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
