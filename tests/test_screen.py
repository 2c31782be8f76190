"""Screening by products of bfloat16: its bound holds, it decides what it leaves open, it knows when to stop.

tests/test_recall.py compares whole ranks with brute force both ways.
"""

import jax
import ml_dtypes
import numpy as np
import pytest

from sreml_jax.retrieval import recall, screen
from sreml_jax.retrieval.blocks import Blocks

CPU = jax.devices('cpu')[:1]


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    monkeypatch.setattr(screen, '_multiplies_bfloat16', lambda: True)
    monkeypatch.setattr(screen, '_LEAST_PRODUCTS', 0)


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def ranks(x, labels, **kwargs):
    return recall.ranks(x, x, labels, labels, same=True, devices=CPU, **kwargs)


def clustered(n=512, d=64, classes=64, noise=1.0):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    return unit(rng.standard_normal((classes, d))[labels] + noise * rng.standard_normal((n, d))), labels


def by_hand(x, labels):
    """The ranks, all in float64."""
    s = x.astype(np.float64) @ x.T.astype(np.float64)
    match = labels[:, None] == labels
    best = np.where(match & ~np.eye(len(x), dtype=bool), s, -np.inf).max(1)
    return np.sum(~match & (s >= best[:, None]), 1)


def rounded_block(blocks):
    return screen._Rounded(screen._cast(blocks, 0, CPU[0]), *screen._norms(blocks, 0, CPU[0]))


def watch(monkeypatch):
    """Returns a list of how many similarities each pair of blocks leaves open; None: too many."""
    seen = []
    decide = screen.Screen._decide

    def watched(self, i, j, bits):
        counts = decide(self, i, j, bits)
        seen.append(None if counts is None else np.count_nonzero(bits))
        return counts

    monkeypatch.setattr(screen.Screen, '_decide', watched)
    return seen


def test_ranks_are_those_of_the_embeddings_where_rounded_ones_have_others(monkeypatch):
    x, labels = clustered(noise=2.4)
    monkeypatch.setattr(screen, '_MOST_OPEN', 1)
    seen = watch(monkeypatch)
    want = by_hand(x, labels)
    np.testing.assert_array_equal(ranks(x, labels, chunk=64), want)
    assert 0.1 < np.mean(want == 0) < 0.9
    assert np.sum(want != by_hand(x.astype(ml_dtypes.bfloat16), labels)) > 5
    # Most pairs of blocks share no class, and few of their similarities are near a best one.
    assert len(seen) > 20 and 0 < sum(seen) < len(seen) * 64**2 / 100


def test_no_similarity_is_farther_off_than_the_bound():
    rng = np.random.default_rng(1)
    random = unit(rng.standard_normal((64, 300)))
    # Rounded down by almost half a place in each number: what Cauchy and Schwarz fear most.
    worst = np.full((64, 300), (1 + 0.99 * 2**-8) / 16, np.float32)
    for x, least in ((random, 0.01), (worst, 0.9), (1000 * random, 0.01)):
        blocks = Blocks(x, np.arange(64), 64, CPU)
        block = rounded_block(blocks)
        assert block.rows.dtype == ml_dtypes.bfloat16
        rounded = np.asarray(block.rows).astype(np.float64)
        off = np.abs(rounded @ rounded.T - x.astype(np.float64) @ x.T.astype(np.float64)).max(1)
        bound = np.asarray(screen._error(block, block))
        assert (off <= bound).all()
        assert (off >= least * bound).all()


def test_the_bound_leaves_room_for_sums_in_float32():
    # These numbers are bfloat16's own: nothing is rounded but sums, and those by at most a place a product.
    x = np.full((16, 4096), 1 / 64, np.float32)
    block = rounded_block(Blocks(x, np.arange(16), 16, CPU))
    np.testing.assert_allclose(screen._error(block, block), (4096 + 64) * 2.0**-24, rtol=0.02)


def test_an_embedding_of_equal_images_is_left_to_float32(monkeypatch):
    x = unit(np.random.default_rng(0).standard_normal((1, 40))).repeat(320, 0)
    seen = watch(monkeypatch)
    assert (ranks(x, np.arange(320) // 10, chunk=20) == 310).all()
    # After some pairs that it could not decide, and what was under way, it tries no more.
    assert 3 <= len(seen) < 10 and set(seen) == {None}


def test_one_pair_that_is_left_to_float32_does_not_end_it(monkeypatch):
    x, labels = clustered(320, 64, 32)
    order = np.argsort(labels, kind='stable')
    x, labels = x[order], labels[order]
    x[20:40] = x[100:120] = x[20]
    seen = watch(monkeypatch)
    found, want = ranks(x, labels, chunk=20), by_hand(x, labels)
    np.testing.assert_array_equal(found, want)
    assert seen.count(None) == 1 and len(seen) == 16 * 15 / 2


def test_infinite_numbers_make_no_similarity_sure(monkeypatch):
    x, labels = clustered()
    x[7] = np.inf
    found = ranks(x, labels, chunk=64)
    monkeypatch.setattr(screen, '_multiplies_bfloat16', lambda: False)
    np.testing.assert_array_equal(found, ranks(x, labels, chunk=64))


def test_blocks_that_the_device_does_not_hold(monkeypatch):
    monkeypatch.setattr('sreml_jax.retrieval.blocks._HELD_BYTES', 0)
    x, labels = clustered()
    np.testing.assert_array_equal(ranks(x, labels, chunk=64), by_hand(x, labels))


def test_it_pays_for_large_blocks_of_float32_on_a_cpu_with_such_products(monkeypatch):
    x = np.zeros((32, 8), np.float32)
    blocks = [Blocks(x.astype(dtype), np.arange(32), 16, CPU) for dtype in (np.float32, ml_dtypes.bfloat16)]
    assert screen.pays(blocks[0], blocks[0], CPU[0])
    assert not screen.pays(blocks[1], blocks[1], CPU[0])
    assert not screen.pays(blocks[0], blocks[1], CPU[0])
    monkeypatch.setattr(screen, '_LEAST_PRODUCTS', 16 * 16 * 8 + 1)
    assert not screen.pays(blocks[0], blocks[0], CPU[0])
    monkeypatch.setattr(screen, '_LEAST_PRODUCTS', 16 * 16 * 8)
    assert screen.pays(blocks[0], blocks[0], CPU[0])
    monkeypatch.setattr(screen, '_multiplies_bfloat16', lambda: False)
    assert not screen.pays(blocks[0], blocks[0], CPU[0])
