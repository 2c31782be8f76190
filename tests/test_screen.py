"""Screening by products of bfloat16: its bound holds, it decides what it leaves open, it knows when to stop.

tests/test_recall.py compares whole ranks with brute force both ways.
"""

import concurrent.futures
import threading

import jax
import ml_dtypes
import numpy as np
import pytest

from sreml_jax import hosts
from sreml_jax.retrieval import recall, screen
from sreml_jax.retrieval.blocks import Blocks, similarities

CPU = jax.devices('cpu')[:1]


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    monkeypatch.setattr(screen, '_multiplies_bfloat16', lambda: True)
    monkeypatch.setattr(screen, '_LEAST_PRODUCTS', 0)
    monkeypatch.setattr(screen, '_LEAST_WIDTH', 0)


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
    return screen._round(True, {}, blocks, 0, CPU[0])


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
        products = np.asarray(similarities(block.rows, block.rows))
        both = np.divmod(np.arange(64**2), 64)
        dots = screen.Screen(blocks, blocks, np.zeros((1, 64)), CPU)._dots(0, 0, *both).reshape(64, 64)
        np.testing.assert_allclose(dots, x.astype(np.float64) @ x.T, rtol=1e-5, atol=1e-6 * dots.max())
        off, bound = np.abs(products - dots).max(1), np.asarray(screen._error(block, block))
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


def test_numbers_that_no_bound_holds_for_are_left_to_float32(monkeypatch):
    x, labels = clustered()
    x[7] = np.inf
    x[8, 3], x[9, 3] = np.inf, -np.inf
    x[10] = 0
    found = ranks(x, labels, chunk=64)
    monkeypatch.setattr(screen, '_multiplies_bfloat16', lambda: False)
    np.testing.assert_array_equal(found, ranks(x, labels, chunk=64))


@pytest.mark.parametrize('most_open', [1, 0])
def test_blocks_that_the_device_does_not_hold(monkeypatch, most_open):
    monkeypatch.setattr('sreml_jax.retrieval.blocks._HELD_BYTES', 0)
    monkeypatch.setattr(screen, '_MOST_OPEN', most_open)
    x, labels = clustered(noise=2.4)
    np.testing.assert_array_equal(ranks(x, labels, chunk=64), by_hand(x, labels))


def test_blocks_of_float32_are_let_go_where_the_device_does_not_hold_them(monkeypatch):
    monkeypatch.setattr('sreml_jax.retrieval.blocks._HELD_BYTES', 0)
    kept = []
    decide = screen.Screen._decide

    def watched(self, i, j, bits):
        kept.append((self._rows.load.cache_info().currsize, self._round.cache_info().currsize))
        return decide(self, i, j, bits)

    monkeypatch.setattr(screen.Screen, '_decide', watched)
    ranks(*clustered(), chunk=64)
    assert len(kept) > 20 and set(kept) == {(0, 2)}


def test_a_best_match_that_was_not_found_again_stays_as_it_was(monkeypatch):
    # As if products of float32 were not the same twice.
    monkeypatch.setattr(screen.Screen, 'learn', lambda *args: None)
    monkeypatch.setattr(screen, '_MOST_OPEN', 1)
    x, labels = clustered(noise=2.4)
    np.testing.assert_array_equal(ranks(x, labels, chunk=64), by_hand(x, labels))


def test_hosts_share_what_they_learn(monkeypatch):
    """Two hosts, played by two threads that meet wherever hosts combine."""
    monkeypatch.setattr(screen, '_MOST_OPEN', 1)
    x, labels = clustered(noise=2.4)
    # Each image twice, of another class: only best matches computed alike tell those ties.
    x, labels = np.concatenate([x, x]), np.concatenate([labels, labels[::-1] + 1000])
    host, told, meet = threading.local(), [None, None], threading.Barrier(2, timeout=60)

    def combine(of_host, reduce):
        told[host.number] = np.array(of_host)
        meet.wait()
        combined = reduce(np.stack(told), axis=0)
        meet.wait()
        return combined

    def run(number):
        host.number = number
        return ranks(x, labels, chunk=64)

    monkeypatch.setattr(hosts, 'share', lambda jobs: jobs[host.number :: 2])
    monkeypatch.setattr(hosts, 'combine', combine)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(run, range(2)))
    for of_host in found:
        np.testing.assert_array_equal(of_host, by_hand(x, labels))


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
    monkeypatch.setattr(screen, '_LEAST_WIDTH', 9)
    assert not screen.pays(blocks[0], blocks[0], CPU[0])
    monkeypatch.setattr(screen, '_LEAST_WIDTH', 8)
    monkeypatch.setattr(screen, '_multiplies_bfloat16', lambda: False)
    assert not screen.pays(blocks[0], blocks[0], CPU[0])
