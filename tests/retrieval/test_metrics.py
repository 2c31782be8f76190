"""MAP@R and R-precision against tables made by hand and the definitions, one query at a time."""

import jax
import numpy as np
import pytest

from sreml_jax.retrieval import metrics
from sreml_jax.retrieval.metrics import correct_neighbors, map_at_r, r_precision, raw_pixels
from sreml_jax.retrieval.protocol import Protocol

# Nearest first; R = 4, 3, 2 and 0 correct matches in the gallery.
CORRECT = np.array([[1, 0, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]], bool)
RELEVANT = np.array([4, 3, 2, 0])


def test_hand_made_table():
    # The fourth neighbor of the second query, and all after the second of the third, lie beyond R.
    assert r_precision(CORRECT, RELEVANT) == pytest.approx((2 / 4 + 2 / 3 + 0 + 0) / 4)
    want = ((1 / 1 + 2 / 3) / 4 + (1 / 2 + 2 / 3) / 3 + 0 + 0) / 4
    assert map_at_r(CORRECT, RELEVANT) == pytest.approx(want)


@pytest.mark.parametrize('cells', [1, 8, 12])
def test_some_queries_at_once(cells, monkeypatch):
    whole = map_at_r(CORRECT, RELEVANT)
    monkeypatch.setattr(metrics, '_CELLS', cells)
    assert map_at_r(CORRECT, RELEVANT) == pytest.approx(whole)


def test_the_paper_s_example_where_r_precision_is_blind():
    # 1,0,...,0,1 and 1,1,0,...,0: equal R-precision, but MAP@R sees the order.
    late, early = np.array([[1, 0, 0, 0, 1]], bool), np.array([[1, 1, 0, 0, 0]], bool)
    five = np.array([5])
    assert r_precision(late, five) == r_precision(early, five) == 0.4
    assert map_at_r(late, five) == pytest.approx((1 + 2 / 5) / 5)
    assert map_at_r(early, five) == pytest.approx(0.4)


@pytest.mark.parametrize('same', [True, False])
def test_equals_the_definitions(same):
    rng = np.random.default_rng(0)
    query, query_labels = rng.standard_normal((70, 5)).astype(np.float32), rng.integers(-2, 9, 70)
    gallery, gallery_labels = query, query_labels
    if not same:  # without some of the query's classes, and with others
        gallery, gallery_labels = rng.standard_normal((45, 5)).astype(np.float32), rng.integers(2, 14, 45)
    device = jax.devices()[:1]
    protocol = Protocol(query_labels, gallery_labels, same)
    correct, relevant = (
        correct_neighbors(query, gallery, protocol, devices=device, chunk=32),
        protocol.relevant,
    )
    precisions, averages = [], []
    for i in range(70):
        order = [j for j in np.argsort(-(gallery @ query[i])) if not (same and i == j)]
        hits = [gallery_labels[j] == query_labels[i] for j in order]
        r = sum(hits)
        assert relevant[i] == r
        precisions.append(sum(hits[:r]) / r if r else 0)
        averages.append(sum(sum(hits[: n + 1]) / (n + 1) for n in range(r) if hits[n]) / r if r else 0)
    assert r_precision(correct, relevant) == pytest.approx(np.mean(precisions))
    assert map_at_r(correct, relevant) == pytest.approx(np.mean(averages))
    assert 0 < np.mean(averages) < np.mean(precisions) < 1


def test_raw_pixels_are_flat_and_of_unit_length():
    images = np.zeros((3, 1, 2, 3), np.uint8)
    images[0, 0, 0], images[1, 0, 1] = (3, 0, 4), (0, 255, 0)
    np.testing.assert_allclose(
        raw_pixels(images), [[0.6, 0, 0.8, 0, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]], rtol=1e-6
    )
