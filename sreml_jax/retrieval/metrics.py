"""MAP@R and R-precision, and raw pixels as a baseline embedding."""

from collections.abc import Sequence

import jax
import numpy as np

from sreml_jax.retrieval.nearest import nearest
from sreml_jax.retrieval.protocol import Protocol

_CELLS = 2**22  # of queries x neighbors at once


def correct_neighbors(
    query: np.ndarray,
    gallery: np.ndarray,
    protocol: Protocol,
    *,
    devices: Sequence[jax.Device] | None = None,
    chunk: int | None = None,
) -> np.ndarray:
    """Finds each query's R nearest neighbors and checks their classes; R is `protocol.relevant`.

    Args: see `recall.ranks`.

    Returns:
      bool [queries, greatest R]: whether each neighbor is correct, the nearest first.
    """
    k = int(protocol.relevant.max(initial=0))
    indices, _ = nearest(query, gallery, k, same=protocol.same, devices=devices, chunk=chunk)
    return protocol.gallery_labels[indices] == protocol.query_labels[:, None]


def r_precision(correct: np.ndarray, relevant: np.ndarray) -> float:
    """Computes R-precision (Musgrave et al. 2020): the mean share of correct images among R neighbors.

    Args:
      correct: bool [queries, at least the greatest R]; whether each neighbor is correct, the nearest first.
      relevant: int [queries]; R, the correct matches that the gallery holds. A query without one counts as 0.
    """
    correct = correct & (np.arange(correct.shape[1]) < relevant[:, None])
    return float(np.mean(correct.sum(1) / np.maximum(relevant, 1)))


def map_at_r(correct: np.ndarray, relevant: np.ndarray) -> float:
    """Computes MAP@R (Musgrave et al. 2020, "A Metric Learning Reality Check").

    For one query, it sums the precision at each correct image among the R nearest neighbors, and divides by
    R. The result is the mean over queries.

    Args: see `r_precision`.
    """
    rank, total = np.arange(1, correct.shape[1] + 1), 0.0
    at_once = max(1, _CELLS // max(1, correct.shape[1]))
    for start in range(0, len(correct), at_once):  # a large class would need many bytes a cell at once
        rows = slice(start, start + at_once)
        counted = correct[rows] & (rank <= relevant[rows, None])
        precision = np.cumsum(counted, 1) / rank
        total += ((precision * counted).sum(1) / np.maximum(relevant[rows], 1)).sum()
    return float(total / len(correct))


def raw_pixels(images: np.ndarray) -> np.ndarray:
    """Flattens uint8 [n, H, W, 3] to float32 [n, H*W*3] of unit length.

    No mean is subtracted: similarities are cosines of the pixel values. A black image becomes 0, and is
    equally similar to every image.
    """
    flat = images.reshape(len(images), -1).astype(np.float32)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
