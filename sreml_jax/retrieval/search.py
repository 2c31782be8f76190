"""Nearest neighbours, exact, of embeddings in memory or in an index on disk."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sreml_jax.errors import UserError
from sreml_jax.index import Index, Item
from sreml_jax.retrieval.blocks import Blocks, rows_of_block, similarities, spread

if TYPE_CHECKING:
    from sreml_jax.retrieval.approximate import Approximate

_LOWEST = np.finfo(np.float32).min  # of a NaN: below every similarity, above what must not be found at all


_LEAST_QUERIES = 16  # rows of a block of queries, for the matmul's sake
_TILE_BYTES = 2**26  # of a block of the gallery at most, where few queries let it be long


class Match(NamedTuple):
    """One image that a search has found.

    Attributes:
      rank: from 1.
      similarity: cosine of the angle between the two embeddings.
      item: of the index.
    """

    rank: int
    similarity: float
    item: Item


def search(
    query: np.ndarray,
    index: Index,
    top: int = 10,
    approximate: 'Approximate | None' = None,
    devices: Sequence[jax.Device] | None = None,
) -> list[list[Match]]:
    """Finds the images of an index that are most similar to each query.

    Args:
      query: float32 [queries, d], rows of unit length, of the checkpoint that made the index.
      index: on disk; read in blocks, so that memory does not depend on its size.
      top: images a query.
      approximate: searches in the place of the exact search where given.
      devices: that share the blocks; all local ones where not given.

    Raises:
      UserError: query and index have embeddings of different lengths.
    """
    numbers, width = query.shape[1], index.about['dimensions']
    if numbers != width:
        raise UserError(
            f'the query is of {numbers:,} numbers and {index.folder} holds embeddings of {width:,}; set '
            'config.embedding and config.embedding_dim of the Embedder as when the index was made'
        )
    find = approximate.search if approximate else functools.partial(in_index, index=index, devices=devices)
    rows, similarities = find(query, k=top)
    items = iter(index.items(rows.reshape(-1)))
    return [
        [Match(rank, float(similarity), next(items)) for rank, similarity in enumerate(row, 1)]
        for row in similarities
    ]


def in_index(
    query: np.ndarray, index: Index, k: int, devices: Sequence[jax.Device] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k nearest images of an index, exact; arguments and results as of `search` and `nearest`."""
    # The stored numbers need not be scaled one by one.
    scaled = query * np.float32(index.scale)
    return nearest(scaled, index.embeddings, k, same=False, devices=devices)


def nearest(
    query: np.ndarray,
    gallery: np.ndarray,
    k: int,
    *,
    same: bool,
    devices: Sequence[jax.Device] | None = None,
    chunk: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k most similar gallery items of each query.

    Args:
      query: float32 or bfloat16 [queries, d]; rows of unit length; may be memory-mapped.
      gallery: likewise [images, d]; any real dtype, float16 and int8 too.
      k: neighbours wanted; no more are found than the gallery holds.
      same: query is gallery, and each query itself is left out, by index.
      devices: that share the blocks; all local ones where not given.
      chunk: rows of a block; chosen by device and sizes where not given.

    Returns:
      indices: int32 [queries, min(k, images)], the most similar first; of equal ones the lower index first.
        Embeddings with NaN come last.
      similarities: float32, likewise.
    """
    devices = devices or jax.local_devices()
    k = min(k, len(gallery) - same)
    if not len(query) or k < 1:
        shape = len(query), max(k, 0)
        return np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    size = chunk or rows_of_block((len(query), len(gallery)), query.shape[1], query.itemsize)
    few = size if chunk or same else min(size, -(-len(query) // _LEAST_QUERIES) * _LEAST_QUERIES)
    # As many similarities in a block as ever; a long block of the gallery beside few queries.
    rows = Blocks(query, np.arange(len(query)), few, devices)
    if few < size:
        longest = max(size, min(size * size // few, _TILE_BYTES // (gallery.shape[1] * gallery.itemsize)))
        size = min(longest, -(-len(gallery) // 16) * 16)
    columns = rows if same else Blocks(gallery, np.arange(len(gallery)), size, devices)

    def find(i: int, j: int, device: jax.Device):
        real = columns.slice(j).stop - j * size
        return _first(rows.load(i, device), columns.load(j, device), real, same and i == j, min(k, size))

    index = np.zeros((len(query), k), np.int32)
    similarity = np.full((len(query), k), -np.inf, np.float32)
    pairs = [(i, j) for i in range(rows.number) for j in range(columns.number)]
    for i, j, (s, chosen) in spread(pairs, devices, find):
        here = rows.slice(i)
        filling = slice(here.stop - here.start)
        # What was found before stands first, so that the lower index comes first of equals.
        s = np.concatenate([similarity[here], s[filling]], 1)
        chosen = np.concatenate([index[here], chosen[filling] + j * size], 1)
        best = np.argsort(-s, 1, kind='stable')[:, :k]
        similarity[here] = np.take_along_axis(s, best, 1)
        index[here] = np.take_along_axis(chosen, best, 1)
    return index, similarity


@functools.partial(jax.jit, static_argnames='k')
def _first(query, gallery, real, diagonal, k):
    """Returns similarity and column of each row's k nearest in one block of the gallery.

    Args:
      real: how many rows of the gallery's block are images.
      diagonal: the queries are the same block.
      k: neighbours wanted.
    """
    s = similarities(query, gallery)
    column, row = jnp.arange(s.shape[1])[None], jnp.arange(s.shape[0])[:, None]
    s = jnp.where(s == 0, 0.0, s)  # top_k puts -0 after 0
    s = jnp.where(jnp.isnan(s), _LOWEST, s)
    s = jnp.where((column < real) & ~(diagonal & (column == row)), s, -jnp.inf)
    return lax.top_k(s, k)
