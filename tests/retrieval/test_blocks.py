"""Blocks: their size, their padding, and that memory-mapped files are not copied."""

import jax
import numpy as np
import pytest

from sreml_jax.retrieval.blocks import Blocks, rows_of_block

CPU = jax.devices('cpu')[:1]


def test_rows_are_few_enough_for_memory_and_fill_the_blocks():
    for n, d in ((1, 3), (500, 64), (5924, 576), (20_000, 2304), (60_502, 24_000), (60_502, 10**7)):
        rows = rows_of_block((n, n // 2), d, 4, 'cpu')
        assert rows % 16 == 0
        assert rows * d * 4 <= max(2**27 + 2**24, 16 * d * 4)
        blocks = -(-n // rows)
        assert blocks * rows - n < 16 * blocks


def test_an_accelerator_takes_few_large_blocks():
    assert rows_of_block((5924, 5924), 576, 4, 'gpu') == 1984  # 3 blocks, 6 pairs, where a CPU has 13 and 91
    assert rows_of_block((5924, 5924), 576, 4, 'cpu') == 464
    assert rows_of_block((60_502, 60_502), 24_000, 4, 'gpu') == 1376  # 132 MB


class Accelerator:
    """A device of which only the memory is known."""

    platform = 'gpu'

    def memory_stats(self):
        return {'bytes_limit': 10_000, 'bytes_in_use': 2_000}


@pytest.mark.parametrize(
    ('alone', 'rows', 'held'), [(True, 1000, True), (True, 1001, False), (False, 501, False)]
)
def test_half_of_the_free_memory_holds_embeddings(alone, rows, held, monkeypatch):
    reads = []
    monkeypatch.setattr(jax, 'device_put', lambda block, device: reads.append(len(block)))
    blocks = Blocks(np.zeros((rows, 1), np.float32), np.arange(rows), 100, [Accelerator()], alone=alone)
    for _ in range(2):
        for i in range(blocks.number):
            blocks.load(i, None)
    assert len(reads) == blocks.number * (1 if held else 2)


def test_the_last_block_is_padded_with_nan():
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    blocks = Blocks(x, np.array([4, 3, 2, 1, 0]), 3, CPU)
    assert blocks.number == 2
    np.testing.assert_array_equal(blocks.load(0, CPU[0]), x[[4, 3, 2]])
    np.testing.assert_array_equal(blocks.load(1, CPU[0]), [[2, 3], [0, 1], [np.nan, np.nan]])
    np.testing.assert_array_equal(blocks.cut(np.arange(5), -1), [[0, 1, 2], [3, 4, -1]])


def test_a_mapped_file_in_order_is_not_copied(tmp_path):
    mapped = np.memmap(tmp_path / 'x', np.float32, 'w+', shape=(64, 16))
    block = Blocks(mapped, np.arange(64), 16, CPU).load(2, CPU[0])
    assert block.unsafe_buffer_pointer() == mapped[32:].ctypes.data


def test_float16_is_widened_before_a_cpu_gets_it():
    """XLA has no code for it on a processor without F16C: `XLA_FLAGS=--xla_cpu_max_isa=SSE4_2`."""
    x = np.array([[1.5], [-2.25], [65504]], np.float16)
    block = Blocks(x, np.arange(3), 4, CPU).load(0, CPU[0])
    assert block.dtype == np.float32
    np.testing.assert_array_equal(block, [[1.5], [-2.25], [65504], [np.nan]])
