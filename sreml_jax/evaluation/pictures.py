"""retrievals.png: queries and their nearest neighbors, framed green if correct and red if wrong."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from sreml_jax.data.dataset import Dataset
from sreml_jax.drawing import contact_sheet
from sreml_jax.retrieval.nearest import nearest
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.runtime import files


def save_retrievals(
    path: Path,
    dataset: Dataset,
    query: np.ndarray,
    gallery: np.ndarray,
    *,
    rows: int = 8,
    columns: int = 8,
    devices: Sequence[jax.Device] | None = None,
) -> None:
    """Draws `rows` queries, of different classes if possible, and their nearest neighbors.

    The queries depend on the labels only.

    Args:
      path: of the PNG, which is replaced atomically.
      dataset: gives images, labels and names of the evaluation splits.
      query: float32 [queries, d], embeddings of the query split, of unit length.
      gallery: float32 [images, d], of the gallery split.
      rows, columns: queries and neighbors to show.
      devices: see `recall.ranks`.
    """
    splits, protocol = dataset.evaluation_splits, Protocol.of(dataset)
    query_labels, gallery_labels = protocol.query_labels, protocol.gallery_labels
    chosen = choose_queries(query_labels, rows)
    # One more: a query finds itself in its own split.
    found, _ = nearest(query[chosen], gallery, columns + protocol.same, same=False, devices=devices)
    if protocol.same:
        found = np.stack([drop(row, itself) for row, itself in zip(found, chosen, strict=True)])
    query_images, neighbors = (
        np.concatenate(list(dataset.images(split, indices, len(indices))))
        for split, indices in zip(splits, (chosen, found.reshape(-1)), strict=True)
    )
    names = [dataset.class_names[split] for split in splits]
    picture = contact_sheet.draw(
        query_images,
        neighbors.reshape(*found.shape, *neighbors.shape[1:]),
        gallery_labels[found] == query_labels[chosen, None],
        [names[0][int(label)] for label in query_labels[chosen]],
        [[names[1][int(label)] for label in row] for row in gallery_labels[found]],
    )
    with files.atomic_write(path) as temporary:
        picture.save(temporary, format='PNG')


def choose_queries(labels: np.ndarray, number: int) -> np.ndarray:
    """Draws int64 [min(number, len(labels))] queries with a fixed seed, of different classes first."""
    order = np.random.default_rng(0).permutation(len(labels))
    first = np.unique(labels[order], return_index=True)[1]
    one_a_class = np.random.default_rng(1).permutation(order[first])
    return np.concatenate([one_a_class, np.setdiff1d(order, one_a_class)])[:number]


def drop(neighbors: np.ndarray, itself: int) -> np.ndarray:
    """Removes the query from int [k + 1] neighbors; if ties have displaced it, removes the last instead."""
    return neighbors[neighbors != itself][: len(neighbors) - 1]
