"""Recall@1 of many subsets of an ensemble's members, in one pass and by one compiled program."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sreml_jax.retrieval.blocks import Blocks, once_per_device, spread
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.runtime import hosts
from sreml_jax.runtime.xla import BY_LIBRARY

# Similarities of two blocks, by member and by subset: near a CPU's caches; few kernels on an accelerator.
_CPU_TILE_BYTES, _TILE_BYTES = 2**23, 2**28
# A product's rounding depends on its place in a block: similarities this close, relatively, are a tie.
_ROUNDING = 2.0**-18


def recall_at_1(
    query: np.ndarray,
    gallery: np.ndarray,
    protocol: Protocol,
    chosen: np.ndarray,
    *,
    devices: Sequence[jax.Device] | None = None,
    chunk: int | None = None,
) -> np.ndarray:
    """Computes the Recall@1 of each subset of the members.

    The similarity of two images is the sum of their members' similarities. So two blocks are multiplied
    member by member once, and one matrix product then sums over the members of every subset. A query is a hit
    if its best correct match is more similar than every wrong image; ties, up to rounding, count against the
    query. Several hosts share the blocks; all of them must call this with the same arguments.

    Args:
      query: float32 [queries, members * dimensions]; all members' parts of one norm. A NaN in a row makes the
        row NaN for every subset.
      gallery: as `query`, [images, members * dimensions].
      protocol: labels of both.
      chosen: bool [subsets, members].
      devices: share the blocks; default: all local devices.
      chunk: rows per block; default: by the number of members and subsets.

    Returns:
      float64 [subsets], 0..1, the same as from `recall.ranks` of the chosen columns, except that near-ties
      count as ties.
    """
    devices = devices or jax.local_devices()
    same = protocol.same
    size = chunk or _rows(max(len(query), len(gallery)), sum(chosen.shape), devices[0].platform)
    rows = Blocks(query, np.arange(len(query)), size, devices, alone=same)
    columns = rows if same else Blocks(gallery, np.arange(len(gallery)), size, devices)
    of_query, of_gallery = protocol.numbered
    row_labels = rows.on_devices(of_query, -1)
    column_labels = row_labels if same else columns.on_devices(of_gallery, -1)
    weights = once_per_device(chosen.astype(np.float32)[None])
    diagonal = once_per_device(np.array([False, True]))

    def find(i: int, j: int, device: jax.Device):
        return _best(
            *(rows.load(i, device), columns.load(j, device)),
            *(row_labels(i, device), column_labels(j, device)),
            *(weights(0, device), diagonal(int(same and i == j), device)),
            both=same,
        )

    pairs = [(i, j) for i in range(rows.number) for j in range(i if same else 0, columns.number)]
    best = np.full((rows.number, 2, len(chosen), size), -np.inf, np.float32)  # [0]: matches, [1]: wrong ones
    for i, j, (of_rows, of_columns) in spread(hosts.share(pairs), devices, find):
        best[i] = np.maximum(best[i], of_rows)
        if same and i != j:
            best[j] = np.maximum(best[j], of_columns)
    match, wrong = hosts.combine(best, np.max).transpose(1, 2, 0, 3)
    with np.errstate(invalid='ignore'):  # -inf - -inf: no match, which is no hit
        hit = match - wrong > _ROUNDING * np.abs(match)
    return hit.reshape(len(chosen), -1)[:, : len(query)].mean(1)


def _rows(longest: int, values: int, platform: str) -> int:
    """Chooses the rows per block, a multiple of 16, for `values` similarities per pair of images."""
    most = max(16, math.isqrt((_CPU_TILE_BYTES if platform == 'cpu' else _TILE_BYTES) // (4 * values)))
    even = -(-longest // -(-longest // most))
    return -(-even // 16) * 16


@functools.partial(jax.jit, static_argnames='both', compiler_options=BY_LIBRARY)
def _best(query, gallery, row_labels, column_labels, weights, diagonal, both):
    """Returns each row's, and if `both` each column's, greatest similarity to a match and to a wrong image.

    Returns:
      of_rows, of_columns: float32 [2, subsets, rows] and [2, subsets, columns]; -inf if there is none.
    """
    members = weights.shape[1]
    query, gallery = (x.reshape(len(x), members, -1) for x in (query, gallery))
    by_member = lax.dot_general(
        query, gallery, (((2,), (2,)), ((1,), (1,))), precision=lax.Precision.HIGHEST
    )  # [members, rows, columns]
    s = jnp.einsum('sm,mrc->src', weights, by_member, precision=lax.Precision.HIGHEST)
    s = jnp.where(jnp.isnan(s), -jnp.inf, s)
    match = row_labels[:, None] == column_labels[None]
    itself = diagonal & jnp.eye(match.shape[0], match.shape[1], dtype=bool)
    of_matches = jnp.where(match & ~itself, s, -jnp.inf)
    of_wrong = jnp.where(match, -jnp.inf, s)
    of_rows, of_columns = (jnp.stack([of_matches.max(a), of_wrong.max(a)]) for a in (2, 1))
    return of_rows, of_columns if both else None
