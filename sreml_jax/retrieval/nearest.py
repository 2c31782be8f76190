"""The exact nearest neighbors of embeddings."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sreml_jax.retrieval.blocks import Blocks, dot_products, dtype_on, rows_of_block, spread
from sreml_jax.runtime.xla import BY_LIBRARY

# Score of NaN embeddings: below any cosine, above the -inf of masked entries.
_LOWEST = np.finfo(np.float32).min
_LEAST_QUERIES = 16  # rows per block of queries; with fewer, the matrix product is slow
_TILE_BYTES = 2**26  # at most, per block of the gallery, if there are few queries


def nearest(
    query: np.ndarray,
    gallery: np.ndarray,
    k: int,
    *,
    same: bool,
    devices: Sequence[jax.Device] | None = None,
    chunk: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k most similar gallery images of each query.

    Args:
      query: float32 or bfloat16 [queries, d]; rows of unit length; may be memory-mapped.
      gallery: [images, d], of any real dtype, float16 and int8 included; may be memory-mapped.
      k: neighbors per query; a smaller gallery yields fewer.
      same: query and gallery are the same rows, and no query is its own neighbor.
      devices: share the blocks; default: all local devices.
      chunk: rows per block; default: by device and size.

    Returns:
      indices: int32 [queries, min(k, images)], the most similar first; of equally similar ones, the lower
        row number first. Embeddings with NaN come last.
      similarities: float32 [queries, min(k, images)].
    """
    devices = devices or jax.local_devices()
    k = min(k, len(gallery) - same)
    if not len(query) or k < 1:
        shape = len(query), max(k, 0)
        return np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    size = chunk or rows_of_block(
        (len(query), len(gallery)), query.shape[1], query.itemsize, devices[0].platform
    )
    few = size if chunk or same else min(size, -(-len(query) // _LEAST_QUERIES) * _LEAST_QUERIES)
    # For few queries, blocks of the gallery are longer: a block of similarities keeps its size.
    rows = Blocks(query, np.arange(len(query)), few, devices, alone=same)
    if few < size:
        width = gallery.shape[1] * dtype_on(devices[0].platform, gallery.dtype).itemsize
        longest = max(size, min(size * size // few, _TILE_BYTES // width))
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
        unpadded = slice(here.stop - here.start)
        # Earlier blocks stand first, so the stable sort keeps lower row numbers first among equals.
        s = np.concatenate([similarity[here], s[unpadded]], 1)
        chosen = np.concatenate([index[here], chosen[unpadded] + j * size], 1)
        best = np.argsort(-s, 1, kind='stable')[:, :k]
        similarity[here] = np.take_along_axis(s, best, 1)
        index[here] = np.take_along_axis(chosen, best, 1)
    return index, similarity


@functools.partial(jax.jit, static_argnames='k', compiler_options=BY_LIBRARY)
def _first(query, gallery, real, diagonal, k):
    """Returns the similarities and columns of each row's k nearest in one block of the gallery.

    Args:
      real: rows of the gallery's block that are not padding.
      diagonal: queries and gallery are the same block.
      k: neighbors.
    """
    s = dot_products(query, gallery)
    column, row = jnp.arange(s.shape[1])[None], jnp.arange(s.shape[0])[:, None]
    s = jnp.where(s == 0, 0.0, s)  # top_k puts -0 after 0
    s = jnp.where(jnp.isnan(s), _LOWEST, s)
    s = jnp.where((column < real) & ~(diagonal & (column == row)), s, -jnp.inf)
    return lax.top_k(s, k)
