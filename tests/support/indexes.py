"""Small indexes with random embeddings."""

from pathlib import Path

import numpy as np

from sreml_jax.search.index import Item
from sreml_jax.search.index.writer import IndexWriter

MEMBERS, DIMENSIONS = 3, 12
ABOUT = {
    'checkpoint': {'workdir': '/runs/a', 'step': 7, 'fingerprint': 'abc', 'config': {}},
    'preprocessing': {'image_size': 16, 'mean': [0.5, 0.5, 0.5], 'std': [0.2, 0.2, 0.2]},
    'dimensions': DIMENSIONS,
    'bound': MEMBERS**-0.5,
    'storage': None,
    'vectors': None,
}


def embeddings_of(paths: list[str], seed: int = 0) -> np.ndarray:
    """Random embeddings, every member's part of one length; those of a path are always the same."""
    rows = []
    for path in paths:
        x = np.random.default_rng([seed, *path.encode()]).normal(size=(MEMBERS, DIMENSIONS // MEMBERS))
        rows.append((x / np.linalg.norm(x, axis=1, keepdims=True) / np.sqrt(MEMBERS)).reshape(-1))
    return np.array(rows, np.float32).reshape(-1, DIMENSIONS)


def items_of(paths: list[str], seed: int = 0) -> list[Item]:
    """What might be known of images."""
    return [Item(p, 10 + i, 20, None if i % 3 else 'cat', f'{seed}{p}') for i, p in enumerate(paths)]


def add(folder: Path, paths: list[str], seed: int = 0, **about) -> None:
    """Adds images and finishes."""
    with IndexWriter(folder, ABOUT | about) as index:
        index.add(items_of(paths, seed), embeddings_of(paths, seed))
        index.finish({'jax': '1'})


def names(first: int, last: int) -> list[str]:
    return [f'/photos/{i:04}.jpg' for i in range(first, last)]
