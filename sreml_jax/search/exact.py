"""The images of an index that are most similar to a query."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from sreml_jax.retrieval.nearest import nearest
from sreml_jax.runtime.errors import UserError
from sreml_jax.search.index import Index, Item
from sreml_jax.search.index.reader import EMBEDDINGS
from sreml_jax.search.index.rows import damaged

# (query [queries, d], index, k) -> row numbers int32 and similarities float32, both [queries, <= k].
Find = Callable[[np.ndarray, Index, int], tuple[np.ndarray, np.ndarray]]


class Match(NamedTuple):
    """One image that a search has found.

    Attributes:
      rank: from 1.
      similarity: cosine of the angle between the two embeddings.
      row: number of the image in the index.
      item: what the index knows about the image.
    """

    rank: int
    similarity: float
    row: int
    item: Item


def exact(
    query: np.ndarray, index: Index, k: int, devices: Sequence[jax.Device] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k nearest images of an index by comparing the query with all of them.

    Args:
      query: float32 [queries, d], rows of unit length.
      index: on disk; read in blocks, so that memory does not depend on its size.
      k: images a query.
      devices: share the blocks; default: all local ones.

    Returns:
      Row numbers and similarities, as `nearest` returns them.

    Raises:
      UserError: the embeddings are damaged.
    """
    index.verify()  # all rows are read anyway
    # Scaling the query once replaces scaling every stored row.
    scaled = query * np.float32(index.scale)
    return nearest(scaled, index.embeddings, k, same=False, devices=devices)


def search(
    query: np.ndarray,
    index: Index,
    top: int = 10,
    find: Find = exact,
    *,
    without: Sequence[str] = (),
) -> list[list[Match]]:
    """Finds the images of an index that are most similar to each query.

    Args:
      query: float32 [queries, d], rows of unit length, of the checkpoint that made the index.
      index: to search.
      top: images a query.
      find: does the search: `exact`, or an approximate one.
      without: sha256 of each query's file; images of the index with the same bytes are left out. Default:
        nothing is left out.

    Raises:
      UserError: query and index have embeddings of different lengths, or the embeddings are damaged.
    """
    width, dimensions = query.shape[1], index.about['dimensions']
    if width != dimensions:
        raise UserError(
            f'the query has {width:,} dimensions and the embeddings in {index.folder} have {dimensions:,}; '
            'make the Embedder with the config.embedding and config.embedding_dim of the index'
        )
    k = top + bool(without)
    while True:
        rows, similarities = find(query, index, k)
        check_cosines(index, similarities)
        items = iter(index.items(rows.reshape(-1)))
        found = [
            [(float(similarity), int(row), next(items)) for row, similarity in zip(*one, strict=True)]
            for one in zip(rows, similarities, strict=True)
        ]
        if without:
            found = [
                [match for match in one if match[2].sha256 != sha256]
                for one, sha256 in zip(found, without, strict=True)
            ]
        if k >= len(index) or all(len(one) >= top for one in found):
            break
        k *= 2  # the index holds copies of a query
    return [[Match(rank, *one) for rank, one in enumerate(matches[:top], 1)] for matches in found]


def check_cosines(index: Index, similarities: np.ndarray) -> None:
    """Raises UserError if a similarity is no cosine, which shows damage that no checksum covers."""
    # Embeddings of int8 and after PCA are a little longer than 1.
    if similarities.size and not np.abs(similarities).max() < 2:
        raise damaged(index.folder / EMBEDDINGS, 'it holds embeddings that are not of length 1')
