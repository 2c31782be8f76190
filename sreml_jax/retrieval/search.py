"""Nearest neighbours, exact."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sreml_jax.retrieval.blocks import Blocks, rows_of_block, similarities, spread

_LOWEST = np.finfo(np.float32).min  # of a NaN: below every similarity, above what must not be found at all


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
      gallery: likewise [images, d].
      k: neighbours wanted; no more are found than the gallery holds.
      same: query is gallery, and each query itself is left out, by index.
      devices: that share the queries; all local ones where not given.
      chunk: rows of a block; chosen by device and size where not given.

    Returns:
      indices: int32 [queries, min(k, images)], the most similar first; of equal ones the lower index first.
        Embeddings with NaN come last.
      similarities: float32, likewise.
    """
    devices = devices or jax.local_devices()
    k = min(k, len(gallery) - same)
    size = chunk or rows_of_block((len(query), len(gallery)), query.shape[1], query.itemsize, devices)
    rows = Blocks(query, np.arange(len(query)), size, devices)
    columns = rows if same else Blocks(gallery, np.arange(len(gallery)), size, devices)

    def find(i: int, _: int, device: jax.Device):
        found = (np.full((size, k), -np.inf, np.float32), np.zeros((size, k), np.int32))
        for j in range(columns.number):
            real = min(size, len(gallery) - j * size)
            found = _merge(
                *found, rows.load(i, device), columns.load(j, device), j * size, real, same and i == j
            )
        return found

    similarity, index = np.empty((len(query), k), np.float32), np.empty((len(query), k), np.int32)
    for i, _, found in spread([(i, 0) for i in range(rows.number)], devices, find):
        here = rows.slice(i)
        similarity[here], index[here] = (x[: here.stop - here.start] for x in found)
    return index, similarity


@jax.jit
def _merge(similarity, index, query, gallery, first, real, diagonal):
    """Puts a block of the gallery to the k nearest so far, [rows, k].

    Args:
      first: index of the block's first image.
      real: how many rows of the block are images.
      diagonal: the queries are the same block.
    """
    s = similarities(query, gallery)
    column, row = jnp.arange(s.shape[1])[None], jnp.arange(s.shape[0])[:, None]
    s = jnp.where(s == 0, 0.0, s)  # top_k puts -0 after 0
    s = jnp.where(jnp.isnan(s), _LOWEST, s)
    s = jnp.where((column < real) & ~(diagonal & (column == row)), s, -jnp.inf)
    # What was found before stands first, and top_k takes the first of equals: the lower index.
    all_s = jnp.concatenate([similarity, s], 1)
    all_i = jnp.concatenate([index, jnp.broadcast_to(column + first, s.shape)], 1)
    s, chosen = lax.top_k(all_s, similarity.shape[1])
    return s, jnp.take_along_axis(all_i, chosen, 1)
