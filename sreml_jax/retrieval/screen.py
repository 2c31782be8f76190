"""Which similarities reach a best match, told by products of bfloat16 but for the few that those leave open.

A CPU with AVX512_BF16 multiplies bfloat16 twice as fast as float32. Rounding x to h moves a dot product by no
more than the norms of x - h allow (Cauchy-Schwarz). Similarities farther than that from a query's best are
counted as they are; each of the others is computed anew in float32, as the best was. So nothing but what
float32 itself leaves to chance is counted otherwise than by products of float32.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sreml_jax import hosts
from sreml_jax.retrieval.blocks import Blocks, similarities, spread

_LEAST_WIDTH = 768  # numbers in a row; fewer are multiplied faster than their products are compared here
_LEAST_PRODUCTS = 2**28  # in two blocks; fewer take float32 less time than the host takes here
_MOST_OPEN = 2**-7  # of the similarities of two blocks; more take longer than float32 on all of them
_DOT_BYTES = 2**19  # of rows at a time, for the cache's sake, where single similarities are computed

_OF_ROW, _OF_COLUMN = 1, 2  # bits: for whose best match a similarity matters


def pays(rows: Blocks, columns: Blocks, device: jax.Device) -> bool:
    """Whether to screen takes less time than float32 does; all hosts, which must all ask, get one answer."""
    large = rows.rows * columns.rows * rows.width >= _LEAST_PRODUCTS and rows.width >= _LEAST_WIDTH
    float32 = rows.dtype == columns.dtype == np.float32
    here = device.platform == 'cpu' and float32 and large and _multiplies_bfloat16()
    return bool(hosts.combine(np.array(here), np.min))


class Screen:
    """Counts what is at least as similar as the best matches, in pairs of blocks that share no class."""

    def __init__(
        self, rows: Blocks, columns: Blocks, best: np.ndarray, devices: Sequence[jax.Device]
    ) -> None:
        """Takes each query's greatest similarity to a match, float32 [blocks, rows of a block]."""
        self._rows, self._columns, self._devices = rows, columns, devices
        self._same = rows is columns
        self._held = rows.held and columns.held
        self._best_of_products = best
        self._best = np.full_like(best, -np.inf)  # computed by `_dots`, as what is compared with it
        self._tried = self._failed = 0
        # Of the outer loop's blocks and the inner one's the last.
        kept = functools.lru_cache(None if self._held else 2 * len(devices))
        self._round = kept(functools.partial(_round, self._held, {}))

    def learn(self, i: int, j: int, s: np.ndarray, row_labels: np.ndarray, column_labels: np.ndarray) -> None:
        """Finds best matches in two blocks that share a class, and computes how similar they are once more.

        Args:
          i, j: the blocks of rows and columns.
          s: float32 [rows, columns], their similarities, the same bits as those that gave the best ones.
          row_labels, column_labels: int [rows] and [columns].
        """
        bits = (s == self._best_of_products[i][:, None]).view(np.uint8)  # _OF_ROW
        if self._same and i != j:
            bits += _OF_COLUMN * (s == self._best_of_products[j]).view(np.uint8)
        row, column, bits = _positions(bits)
        match = (row_labels[row] == column_labels[column]) & ~(self._same & (i == j) & (row == column))
        for block, query, bit in self._sides(i, j, row, column):
            chosen = np.flatnonzero(match & (bits & bit > 0))
            chosen = chosen[np.unique(query[chosen], return_index=True)[1]]  # one match a query
            found = self._dots(i, j, row[chosen], column[chosen])
            np.fmax.at(self._best[block], query[chosen], found)

    def counts(
        self, pairs: Sequence[tuple[int, int]], count: Callable
    ) -> Iterator[tuple[int, int, tuple[np.ndarray, np.ndarray | None]]]:
        """Counts for each row of a pair of blocks, and each column where columns are queries too.

        Args:
          pairs: of blocks that share no class; those that share one must all have been learned.
          count: counts the same, count(i, j, device), by products of float32. It is called for the pairs that
            the screen leaves mostly open; if they are many, for all that follow.

        Yields:
          i, j, (int32 [rows], int32 [columns] or None).
        """
        learned = hosts.combine(self._best, np.max)
        self._best = np.where(learned == -np.inf, self._best_of_products, learned)
        if not self._held:
            self._rows.load.cache_clear()
            self._columns.load.cache_clear()

        def run(i: int, j: int, device: jax.Device):
            if self._failed > 2 + self._tried // 4:
                self._round.cache_clear()
                return *count(i, j, device)[:2], None
            query, gallery = self._round(self._rows, i, device), self._round(self._columns, j, device)
            return _screen(query, gallery, self._best[i], self._best[j] if self._same else None)

        for i, j, (of_rows, of_columns, bits) in spread(pairs, self._devices, run):
            if bits is None:
                yield i, j, (of_rows, of_columns)
                continue
            self._tried += 1
            more = self._decide(i, j, bits)
            if more is None:
                self._failed += 1
                yield i, j, jax.device_get(count(i, j, self._devices[0])[:2])
            else:
                yield i, j, (of_rows + more[0], of_columns + more[1] if self._same else None)

    def _decide(self, i: int, j: int, bits: np.ndarray) -> list[np.ndarray] | None:
        """Counts what the screen left open; None if that is too much."""
        if np.count_nonzero(bits != 0) > _MOST_OPEN * bits.size:
            return None
        row, column, bits = _positions(bits)
        found = self._dots(i, j, row, column)
        counts = []
        for block, query, bit in self._sides(i, j, row, column):
            reached = (bits & bit > 0) & (found >= self._best[block][query])
            counts.append(np.bincount(query[reached], minlength=self._best.shape[1]).astype(np.int32))
        return counts

    def _sides(self, i: int, j: int, row: np.ndarray, column: np.ndarray) -> list:
        """Returns (block, positions in it, bit) of rows and, where they are queries too, columns."""
        return [(i, row, _OF_ROW), (j, column, _OF_COLUMN)][: 1 + self._same]

    def _dots(self, i: int, j: int, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Computes single similarities, float32; equal embeddings are exactly equally similar."""
        found = np.empty(len(row), np.float32)
        step = max(1, _DOT_BYTES // (4 * self._rows.width))
        for start in range(0, len(row), step):
            part = slice(start, start + step)
            products = self._rows.take(i, row[part]) * self._columns.take(j, column[part])
            found[part] = products.sum(1)
        return found


class _Rounded(NamedTuple):
    """A block in bfloat16, [rows, d], and the float32 norms of its rows before, and of what rounding took."""

    rows: jax.Array
    norms: jax.Array
    errors: jax.Array


def _round(held: bool, norms: dict, blocks: Blocks, i: int, device: jax.Device) -> _Rounded:
    """Rounds block i; its norms, which are small and take longer, are kept in `norms`."""
    x = (blocks.load if held else blocks.read)(i, device)
    key = blocks, i, device
    if key not in norms:
        norms[key] = _norms(x)
    rounded = _Rounded(_to_bfloat16(x), *norms[key])
    # Blocks of float32 must not pile up behind the products under way.
    return rounded if held else jax.block_until_ready(rounded)


@jax.jit
def _to_bfloat16(x):
    return x.astype(jnp.bfloat16)


@jax.jit
def _norms(x):
    # A conversion there and back might be optimized away.
    error = x - lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return jnp.sqrt(jnp.sum(x * x, 1)), jnp.sqrt(jnp.sum(error * error, 1))


@jax.jit
def _screen(query, gallery, best_of_rows, best_of_columns):
    """Counts for rows and columns what reaches their best for sure, and says for whose what is open."""
    s = similarities(query.rows, gallery.rows)
    of_rows, open_ = _reached(s, best_of_rows[:, None], _error(query, gallery)[:, None], _OF_ROW)
    if best_of_columns is None:
        return _sum(of_rows, 1), None, open_
    of_columns, also = _reached(s, best_of_columns[None], _error(gallery, query)[None], _OF_COLUMN)
    return _sum(of_rows, 1), _sum(of_columns, 0), open_ | also


def _reached(s, best, error, bit):
    """Returns where s is at least `best` for sure; and `bit` where that is open, 0 elsewhere.

    NaN is never as similar. An error that is not a number leaves all open.
    """
    reached = s >= best + error
    return reached, jnp.where(reached | (s < best - error) | jnp.isnan(s), 0, bit).astype(jnp.uint8)


def _error(of: _Rounded, beside: _Rounded):
    """Returns a bound, [rows], on how far what `_dots` computes is from products of the rounded blocks."""
    # Filling is NaN.
    norm, error = jnp.nanmax(beside.norms), jnp.nanmax(beside.errors)
    rounding = of.errors * norm + of.norms * error + of.errors * error
    # The products' sums are of d terms in any order; those of `_dots`, in pairs, are in 64 roundings.
    sums = (of.rows.shape[1] + 64) * 2.0**-24 * (of.norms + of.errors) * (norm + error)
    return 1.01 * (rounding + sums)  # the norms are rounded too


def _sum(mask, axis):
    """Counts True; as a product, which XLA's CPU compiler makes twice as fast as a sum."""
    ones = jnp.ones(mask.shape[axis], jnp.float32)
    return lax.dot_general(mask.astype(jnp.float32), ones, (((axis,), (0,)), ((), ()))).astype(jnp.int32)


def _positions(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns row, column and value of all that is not 0."""
    flat = np.flatnonzero(bits != 0)
    row, column = np.divmod(flat, bits.shape[1])
    return row, column, bits.reshape(-1)[flat]


@functools.cache
def _multiplies_bfloat16() -> bool:
    """Whether the CPU has AVX512_BF16."""
    try:
        return 'avx512_bf16' in Path('/proc/cpuinfo').read_text().split()
    except OSError:
        return False
