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
    pairs = _Pairs(query, gallery, protocol, devices or jax.local_devices(), chunk)
    best = pairs.best_matches()
    result = np.empty(len(query), np.int32)
    before = np.where(best == -np.inf, NEVER, pairs.at_least_as_similar(best))
    result[pairs.order] = before.reshape(-1)[: len(query)]
    result[protocol.relevant == 0] = NO_MATCH
    return result


class _Pairs:
    """All pairs of a block of queries and a block of the gallery, both in the order of their classes.

    Attributes:
      order: int64 [queries]; row i of the blocks is query order[i].
    """

    def __init__(
        self,
        query: np.ndarray,
        gallery: np.ndarray,
        protocol: Protocol,
        devices: Sequence[jax.Device],
        chunk: int | None,
    ):
        self._devices, self._same = devices, protocol.same
        of_query, of_gallery = protocol.numbered
        lengths, platform = (len(query), len(gallery)), devices[0].platform
        size = chunk or rows_of_block(lengths, query.shape[1], query.itemsize, platform)

        def sort(x: np.ndarray, labels: np.ndarray) -> tuple[Blocks, np.ndarray]:
            blocks = Blocks(x, np.argsort(labels, kind='stable'), size, devices, alone=self._same)
            return blocks, blocks.cut(labels[blocks.order], -1)

        self._rows, row_labels = sort(query, of_query)
        self._columns, column_labels = self._rows, row_labels
        if not self._same:
            self._columns, column_labels = sort(gallery, of_gallery)
        self.order, self._shape = self._rows.order, row_labels.shape
        self._pairs = hosts.share(
            [
                (i, j)
                for i in range(self._rows.number)
                for j in range(i if self._same else 0, self._columns.number)
            ]
        )
        # Labels ascend: two blocks share a class if and only if the ranges of their labels meet.
        first, last = row_labels[:, 0], row_labels.max(1)
        column_first, column_last = column_labels[:, 0], column_labels.max(1)
        self._meeting = [
            (i, j) for i, j in self._pairs if first[i] <= column_last[j] and column_first[j] <= last[i]
        ]
        # A copy of a few kilobytes takes as long as a small product: each crosses to a device once.
        self._row_labels = once_per_device(row_labels)
        self._column_labels = self._row_labels if self._same else once_per_device(column_labels)
        self._diagonal = once_per_device(np.array([False, True]))
        self._kept: dict[tuple[int, int], jax.Array] = {}  # similarities that the second pass needs again

    def best_matches(self) -> np.ndarray:
        """Returns each query's greatest similarity to a correct match, or -inf; float32 [blocks, rows]."""

        def find(i: int, j: int, device: jax.Device):
            s = similarities(self._rows.load(i, device), self._columns.load(j, device))
            if (len(self._kept) + 1) * s.nbytes <= _KEPT_BYTES:
                self._kept[i, j] = s
            labels = self._row_labels(i, device), self._column_labels(j, device)
            return _best(s, *labels, self._diagonal(int(self._same and i == j), device), both=self._same)

        best = np.full(self._shape, -np.inf, np.float32)
        for i, j, (of_rows, of_columns) in spread(self._meeting, self._devices, find):
            best[i] = np.maximum(best[i], of_rows)
            if self._same and i != j:
                best[j] = np.maximum(best[j], of_columns)
        return hosts.combine(best, np.max)

    def at_least_as_similar(self, best: np.ndarray) -> np.ndarray:
        """Counts the wrong images that are at least as similar as `best`; int32 [blocks, rows]."""
        best_on = once_per_device(best)

        def count(i: int, j: int, device: jax.Device):
            s = self._kept.pop((i, j), None)
            if s is None:
                s = similarities(self._rows.load(i, device), self._columns.load(j, device))
            else:
                (device,) = s.devices()
            labels = self._row_labels(i, device), self._column_labels(j, device)
            return _before(s, *labels, best_on(i, device), best_on(j, device) if self._same else None)

        before = np.zeros(self._shape, np.int32)
        for i, j, (of_rows, of_columns) in spread(self._pairs, self._devices, count):
            before[i] += of_rows
            if self._same and i != j:
                before[j] += of_columns
        return hosts.combine(before, np.sum)


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
