"""Embeddings stored as float32, float16 or int8."""

import numpy as np

CHOICES = ('float32', 'float16', 'int8')


def scale_of(storage: str, bound: float) -> float:
    """Returns the factor by which `decode` multiplies stored values.

    127 of int8 stands for `bound`, the greatest absolute value in an embedding (after a PCA: in one of a
    training image).
    """
    return bound / 127 if storage == 'int8' else 1.0


def encode(embeddings: np.ndarray, storage: str, scale: float) -> np.ndarray:
    """Converts float32 embeddings to the dtype `storage`; int8 is rounded and clipped."""
    if storage == 'int8':
        return np.rint(embeddings / np.float32(scale)).clip(-127, 127).astype(np.int8)
    return embeddings.astype(storage)


def decode(stored: np.ndarray, scale: float) -> np.ndarray:
    """Converts stored embeddings back to float32."""
    return stored.astype(np.float32) * np.float32(scale)
