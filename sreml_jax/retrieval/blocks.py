"""Splits embeddings into blocks of one shape, so that a device need not hold all of them."""

import collections
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sreml_jax.runtime.xla import BY_LIBRARY

_MOST_ROWS = 2048  # per block; on a CPU, 512 is a fifth slower
_LEAST_ROWS = 480  # per block, on a CPU; an accelerator takes `_MOST_ROWS`, to start fewer kernels
_LEAST_BLOCKS = 20  # diagonal blocks compute each pair twice; more blocks waste less
_BLOCK_BYTES = 2**27  # at most, per block
_HELD_BYTES = 2**29  # a CPU keeps blocks up to this size in all
_HELD_SHARE = 0.5  # an accelerator keeps blocks in up to this share of its free memory


class Blocks:
    """The rows of `x`, in `order`, in blocks of one shape.

    The last block is padded with NaN. Comparisons with NaN are False, so padding is never counted. Integers,
    which have no NaN, are padded with 0.

    Args:
      x: [n, d]; may be memory-mapped.
      order: int64 [n]; row i of the blocks is x[order[i]].
      rows: rows of each block.
      devices: hold the blocks.
      alone: no other embeddings need a device's memory: the queries are the gallery.

    Attributes:
      order, rows: as given.
      number: of blocks.
    """

    def __init__(
        self,
        x: np.ndarray,
        order: np.ndarray,
        rows: int,
        devices: Sequence[jax.Device],
        *,
        alone: bool = False,
    ):
        self.order, self.rows = order, rows
        self.number = -(-len(order) // rows)
        self._x = x
        self._in_order = bool(np.all(order == np.arange(len(order))))
        self._dtype = dtype_on(devices[0].platform, x.dtype)
        held = x.size * self._dtype.itemsize <= min(map(_held_bytes, devices)) / (1 if alone else 2)
        # If not all blocks are held, the outer loop's block and the inner loop's block are.
        self.load = functools.lru_cache(None if held else 2 * len(devices))(self._read)

    def _read(self, i: int, device: jax.Device) -> jax.Array:
        """Returns block i, [rows, d], on the device.

        On a CPU, float16 becomes float32, and other rows that lie in order are not copied.
        """
        chosen = self.slice(i)
        block = self._x[chosen] if self._in_order else self._x[self.order[chosen]]
        block = block.astype(self._dtype, copy=False)
        if missing := self.rows - len(block):
            fill = 0 if np.issubdtype(block.dtype, np.integer) else np.nan
            block = np.concatenate([block, np.full((missing, block.shape[1]), fill, block.dtype)])
        return jax.device_put(block, device)

    def slice(self, i: int) -> slice:
        """Returns the positions in `order` of the rows of block i."""
        return slice(i * self.rows, min((i + 1) * self.rows, len(self.order)))

    def cut(self, values: np.ndarray, fill: float) -> np.ndarray:
        """Reshapes `values` [n], one for each row in `order`, to [number, rows], padded with `fill`."""
        filled = np.full(self.number * self.rows, fill, values.dtype)
        filled[: len(values)] = values
        return filled.reshape(self.number, self.rows)

    def on_devices(self, values: np.ndarray, fill: float) -> Callable[[int, jax.Device], jax.Array]:
        """Returns a function of i and a device: values[i] of `cut`, which crosses to each device once."""
        return once_per_device(self.cut(values, fill))


def dtype_on(platform: str, dtype: np.dtype) -> np.dtype:
    """Returns the dtype of blocks of `dtype` on a device: float32 instead of float16 on a CPU.

    XLA's CPU compiler has no code for float16 on a processor without F16C.
    """
    return np.dtype(np.float32) if platform == 'cpu' and dtype == np.float16 else np.dtype(dtype)


def once_per_device(parts: np.ndarray) -> Callable[[int, jax.Device], jax.Array]:
    """Returns a function of i and a device: parts[i], which crosses to each device once."""
    return functools.lru_cache(None)(lambda i, device: jax.device_put(parts[i], device))


def _held_bytes(device: jax.Device) -> float:
    """Returns up to which size in all the device keeps embeddings."""
    if device.platform == 'cpu':
        return _HELD_BYTES
    memory = device.memory_stats() or {}
    return _HELD_SHARE * (memory.get('bytes_limit', math.inf) - memory.get('bytes_in_use', 0))


def rows_of_block(lengths: Sequence[int], width: int, itemsize: int, platform: str) -> int:
    """Chooses the rows per block: a multiple of 16 that leaves little padding for the longest length."""
    longest = max(*lengths, 1)
    most = min(
        _MOST_ROWS,
        max(_LEAST_ROWS, -(-longest // _LEAST_BLOCKS)) if platform == 'cpu' else _MOST_ROWS,
        max(16, _BLOCK_BYTES // (width * itemsize)),
    )
    even = -(-longest // -(-longest // most))
    return -(-even // 16) * 16


def dot_products(query: jax.Array, gallery: jax.Array) -> jax.Array:
    """Returns all dot products of [q, d] and [g, d] as float32 [q, g].

    Products and sums are in full float32 (no TF32). Two bfloat16 arrays are multiplied directly: float32
    holds their products exactly, and a CPU needs half the time. Each dot product is summed in the same order
    at any place in the blocks, so that equal embeddings have exactly equal similarities;
    tests/retrieval/test_recall.py checks that.
    """
    if not query.dtype == gallery.dtype == jnp.bfloat16:
        query, gallery = query.astype(jnp.float32), gallery.astype(jnp.float32)
    return lax.dot_general(
        query,
        gallery,
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


similarities = jax.jit(dot_products, compiler_options=BY_LIBRARY)


def spread(
    jobs: Iterable[tuple[int, int]], devices: Sequence[jax.Device], run: Callable
) -> Iterator[tuple[int, int, Any]]:
    """Runs run(i, j, device) for all jobs (i, j), on each device in turn; yields (i, j, result on the host).

    Two jobs per device are in flight at a time: no device waits for the host, and memory stays bounded.
    """
    in_flight: collections.deque[tuple[int, int, Any]] = collections.deque()
    for (i, j), device in zip(jobs, itertools.cycle(devices), strict=False):
        in_flight.append((i, j, run(i, j, device)))
        if len(in_flight) > 2 * len(devices):
            i, j, result = in_flight.popleft()
            yield i, j, jax.device_get(result)
    for i, j, result in in_flight:
        yield i, j, jax.device_get(result)
