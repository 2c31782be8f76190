"""The exact rank of each query's best correct match, from which Recall@K follows for every K."""

import functools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sreml_jax.retrieval.blocks import Blocks, once_per_device, rows_of_block, similarities, spread
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.runtime import hosts

NO_MATCH = -1  # the rank of a query without a correct match in the gallery
NEVER = np.iinfo(np.int32).max  # the rank of a query that can find no match because of NaN

_KEPT_BYTES = 2**28  # of similarities, from the first pass for the second


def ranks(
    query: np.ndarray,
    gallery: np.ndarray,
    protocol: Protocol,
    *,
    devices: Sequence[jax.Device] | None = None,
    chunk: int | None = None,
) -> np.ndarray:
    """Counts the wrong gallery images that are at least as similar as each query's best correct match.

    Queries and gallery are put in the order of their classes, so that a query's correct matches lie in few
    blocks. A first pass over those blocks finds the similarity of the best match; a second pass over all
    blocks counts. Nothing is sorted, and memory holds a few blocks. If query and gallery are the same, each
    pair is computed once and counted for both. Ties count against the query. Several hosts share the
    blocks; all of them must call this with the same arguments.

    Args:
      query: float32 or bfloat16 [queries, d]; rows of unit length, so that the dot product is the cosine.
        bfloat16 takes half the memory. The array may be memory-mapped; a CPU does not copy rows that are
        already in the order of their classes.
      gallery: as `query`, [images, d].
      protocol: labels of both.
      devices: share the blocks; default: all local devices.
      chunk: rows per block; default: by device and size.

    Returns:
      int32 [queries]: 0 if a correct image comes first; NO_MATCH if the gallery holds no correct match; NEVER
      if the query, or each of its correct matches, has a NaN.

    Raises:
      ValueError: the shapes of embeddings and labels do not agree.
    """
    _check(query, gallery, protocol)
    if not len(query) or not len(gallery):
        return np.full(len(query), NO_MATCH, np.int32)
    devices = devices or jax.local_devices()
    same = protocol.same
    labels = np.concatenate([protocol.query_labels, protocol.gallery_labels])
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int32)
    query_labels, gallery_labels = np.split(labels, [len(query)])

    size = chunk or rows_of_block(
        (len(query), len(gallery)), query.shape[1], query.itemsize, devices[0].platform
    )
    rows = Blocks(query, np.argsort(query_labels, kind='stable'), size, devices, alone=same)
    row_labels = rows.cut(query_labels[rows.order], -1)
    columns, column_labels = rows, row_labels
    if not same:
        columns = Blocks(gallery, np.argsort(gallery_labels, kind='stable'), size, devices)
        column_labels = columns.cut(gallery_labels[columns.order], -1)

    pairs = hosts.share([(i, j) for i in range(rows.number) for j in range(i if same else 0, columns.number)])
    # Labels ascend: two blocks share a class if and only if the ranges of their labels meet.
    first, last = row_labels[:, 0], row_labels.max(1)
    column_first, column_last = column_labels[:, 0], column_labels.max(1)
    meeting = [(i, j) for i, j in pairs if first[i] <= column_last[j] and column_first[j] <= last[i]]

    # Copies of a few kilobytes take as long as a small product: each crosses to a device once, not per pair.
    row_labels_on = once_per_device(row_labels)
    column_labels_on = row_labels_on if same else once_per_device(column_labels)
    diagonal = once_per_device(np.array([False, True]))
    best = np.full(row_labels.shape, -np.inf, np.float32)
    kept: dict[tuple[int, int], jax.Array] = {}  # similarities that the second pass needs again

    def find(i: int, j: int, device: jax.Device):
        s = similarities(rows.load(i, device), columns.load(j, device))
        if (len(kept) + 1) * s.nbytes <= _KEPT_BYTES:
            kept[i, j] = s
        labels = row_labels_on(i, device), column_labels_on(j, device)
        return _best(s, *labels, diagonal(int(same and i == j), device), both=same)

    for i, j, (of_rows, of_columns) in spread(meeting, devices, find):
        best[i] = np.maximum(best[i], of_rows)
        if same and i != j:
            best[j] = np.maximum(best[j], of_columns)
    best = hosts.combine(best, np.max)
    best_on = once_per_device(best)

    def count(i: int, j: int, device: jax.Device):
        s = kept.pop((i, j), None)
        if s is None:
            s = similarities(rows.load(i, device), columns.load(j, device))
        else:
            (device,) = s.devices()
        labels = row_labels_on(i, device), column_labels_on(j, device)
        return _before(s, *labels, best_on(i, device), best_on(j, device) if same else None)

    before = np.zeros(row_labels.shape, np.int32)
    for i, j, (of_rows, of_columns) in spread(pairs, devices, count):
        before[i] += of_rows
        if same and i != j:
            before[j] += of_columns
    before = hosts.combine(before, np.sum)

    result = np.empty(len(query), np.int32)
    result[rows.order] = np.where(best == -np.inf, NEVER, before).reshape(-1)[: len(query)]
    result[protocol.relevant == 0] = NO_MATCH
    return result


def recall_at(ranks: np.ndarray, ks: Iterable[int]) -> dict[int, float]:
    """Computes Recall@K: the fraction of all queries with a correct match among their first K, for each K.

    Args:
      ranks: int [queries], from `ranks`. Queries without a match count as misses.
      ks: each at least 1; may exceed the size of the gallery.
    """
    return {int(k): float(np.mean((ranks >= 0) & (ranks < k))) for k in ks}


def _check(query: np.ndarray, gallery: np.ndarray, protocol: Protocol) -> None:
    """Raises ValueError if the shapes do not agree."""
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise ValueError(f'embeddings must be [n, d] with one d, not {query.shape} and {gallery.shape}')
    labels = protocol.query_labels.shape, protocol.gallery_labels.shape
    if labels != (query.shape[:1], gallery.shape[:1]):
        raise ValueError(
            f'one label a row: labels {labels[0]} and {labels[1]}, '
            f'embeddings {query.shape} and {gallery.shape}'
        )


@functools.partial(jax.jit, static_argnames='both')
def _best(s, row_labels, column_labels, diagonal, both):
    """Returns each row's, and if `both` each column's, greatest similarity to a match, or -inf."""
    match = row_labels[:, None] == column_labels[None]
    match &= ~(diagonal & jnp.eye(s.shape[0], s.shape[1], dtype=bool))
    s = jnp.where(match & ~jnp.isnan(s), s, -jnp.inf)
    return s.max(1), s.max(0) if both else None


@jax.jit
def _before(s, row_labels, column_labels, best_of_rows, best_of_columns):
    """Counts the wrong items that are at least as similar as the best match, for each row and column."""
    wrong = row_labels[:, None] != column_labels[None]
    of_rows = jnp.sum(wrong & (s >= best_of_rows[:, None]), 1, dtype=jnp.int32)
    if best_of_columns is None:
        return of_rows, None
    return of_rows, jnp.sum(wrong & (s >= best_of_columns[None]), 0, dtype=jnp.int32)
