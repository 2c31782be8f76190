"""Embeddings stored as float32, float16 or int8."""

import numpy as np

CHOICES = ('float32', 'float16', 'int8')


def scale_of(storage: str, bound: float) -> float:
    """Returns what the stored numbers are to be multiplied by.

    127 of int8 stands for `bound`, the greatest number that an embedding can, or is likely to, hold.
    """
    return bound / 127 if storage == 'int8' else 1.0


def encode(embeddings: np.ndarray, storage: str, scale: float) -> np.ndarray:
    """Returns float32 embeddings as they are stored."""
    if storage == 'int8':
        return np.rint(embeddings / np.float32(scale)).clip(-127, 127).astype(np.int8)
    return embeddings.astype(storage)


def decode(stored: np.ndarray, scale: float) -> np.ndarray:
    """Returns float32 embeddings."""
    return stored.astype(np.float32) * np.float32(scale)
