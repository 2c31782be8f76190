"""Ranks against brute force in float64, where integer-valued embeddings make every product exact."""

import jax
import ml_dtypes
import numpy as np
import pytest

from sreml_jax.retrieval import recall
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.retrieval.recall import NEVER, NO_MATCH, recall_at


def ranks(query, gallery, query_labels, gallery_labels, *, same, chunk=None, devices=jax.devices()[:1]):  # noqa: B008
    """On one device: each device compiles its own programs."""
    return recall.ranks(
        query, gallery, Protocol(query_labels, gallery_labels, same), devices=devices, chunk=chunk
    )


def brute_force(query, gallery, query_labels, gallery_labels, same):
    """The definition, one query at a time."""
    similarity = query.astype(np.float64) @ gallery.astype(np.float64).T
    out = []
    for i, s in enumerate(similarity):
        match = gallery_labels == query_labels[i]
        wrong = ~match
        if same:
            match[i] = False
        out.append(np.sum(s[wrong] >= s[match].max()) if match.any() else NO_MATCH)
    return np.array(out)


def tied(rng, n, d, classes):
    """Embeddings of few different values, so that most similarities tie; labels need not start at 0."""
    return rng.integers(-2, 3, (n, d)).astype(np.float32), rng.integers(-3, classes - 3, n)


@pytest.mark.parametrize(
    ('n', 'd', 'classes', 'chunk'),
    [
        (1, 3, 1, None),
        (2, 1, 1, 1),
        (37, 5, 9, 7),
        (90, 4, 30, 13),
        (97, 2, 2, 32),
        (64, 3, 60, 64),
        (301, 6, 40, None),
    ],
)
@pytest.mark.parametrize('same', [True, False])
def test_equals_brute_force(n, d, classes, chunk, same):
    rng = np.random.default_rng(n)
    query, query_labels = tied(rng, n, d, classes)
    gallery, gallery_labels = (query, query_labels) if same else tied(rng, 2 * n + 1, d, classes)
    found = ranks(query, gallery, query_labels, gallery_labels, same=same, chunk=chunk)
    np.testing.assert_array_equal(found, brute_force(query, gallery, query_labels, gallery_labels, same))
    assert found.dtype == np.int32


def test_a_hand_made_case():
    angle = np.radians([0, 10, 25, 27, 90, 91])
    x = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    labels = np.array([0, 1, 0, 1, 2, 3])
    # 0: 1 comes before 2. 1: 0 and 2 before 3. 2: 3 and 1 before 0. 3: 2 before 1. 4 and 5 are alone.
    assert ranks(x, x, labels, labels, same=True).tolist() == [1, 2, 2, 1, -1, -1]


@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16])
def test_equal_embeddings_tie_exactly_wherever_they_lie(dtype):
    # 12 random vectors, each many times: in exact arithmetic ties are by the vector's number. Real-valued
    # products round, so that this holds only if all sum in one order.
    rng = np.random.default_rng(0)
    for d, chunk in ((131, 48), (577, 67)):
        vectors = rng.standard_normal((12, d)).astype(np.float32)
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)
        which, labels = rng.integers(0, 12, 400), rng.integers(0, 80, 400)
        exact = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
        assert np.diff(np.sort(exact, 1), axis=1).min() > 1e-6  # far over rounding
        want = []
        for i in range(400):
            match = (labels == labels[i]) & (np.arange(400) != i)
            s = exact[which[i], which]
            want.append((s[labels != labels[i]] >= s[match].max()).sum() if match.any() else NO_MATCH)
        found = ranks(vectors[which], vectors[which], labels, labels, same=True, chunk=chunk)
        np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16])
def test_collapsed_embedding_finds_nothing(dtype):
    x = np.tile(np.random.default_rng(0).standard_normal(133).astype(np.float32), (300, 1))
    x = (x / np.linalg.norm(x[0])).astype(dtype)
    labels = np.arange(300) // 10
    for chunk in (None, 77):
        found = ranks(x, x, labels, labels, same=True, chunk=chunk)
        assert (found == 290).all()
        assert recall_at(found, (1, 100, 290, 291)) == {1: 0, 100: 0, 290: 0, 291: 1}


def test_chunk_changes_nothing_on_real_valued_embeddings():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 20, 333)
    x = rng.standard_normal((20, 65))[labels] + 1.5 * rng.standard_normal((333, 65))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    want = brute_force(x, x, labels, labels, True)
    assert 0.1 < np.mean(want == 0) < 0.95
    for chunk in (None, 41):
        np.testing.assert_array_equal(ranks(x, x, labels, labels, same=True, chunk=chunk), want)


def test_similarities_that_are_not_kept_are_computed_again(monkeypatch):
    rng = np.random.default_rng(2)
    x, labels = tied(rng, 100, 3, 11)
    monkeypatch.setattr(recall, '_KEPT_BYTES', 0)
    found = ranks(x, x, labels, labels, same=True, chunk=9)
    np.testing.assert_array_equal(found, brute_force(x, x, labels, labels, True))


@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize('shuffled', [False, True])
def test_memory_mapped(tmp_path, dtype, shuffled):
    rng = np.random.default_rng(3)
    labels = np.arange(150) // 4
    if shuffled:
        rng.shuffle(labels)
    mapped = np.memmap(tmp_path / 'x', dtype, 'w+', shape=(150, 16))
    mapped[:] = rng.integers(-2, 3, (150, 16))
    want = brute_force(np.asarray(mapped), np.asarray(mapped), labels, labels, True)
    np.testing.assert_array_equal(ranks(mapped, mapped, labels, labels, same=True, chunk=64), want)


def test_bfloat16_products_are_not_rounded():
    # 1.0078125 squared needs more digits than bfloat16 has; rounded, the wrong item would tie.
    x = np.array([[1.0078125, 1], [1.0078125, 0], [0, 1.015625]], ml_dtypes.bfloat16)
    labels = np.array([0, 0, 1])
    assert ranks(x, x, labels, labels, same=True)[0] == 0


def test_nan_is_never_a_hit():
    rng = np.random.default_rng(4)
    x = np.eye(8, dtype=np.float32)[[0, 0, 1, 1, 2, 2, 3]]
    x[4] = np.nan
    labels = np.array([0, 0, 1, 1, 2, 2, 3])
    # 4 is NaN, and 4 is the only match of 5; the others are unaffected.
    assert ranks(x, x, labels, labels, same=True).tolist() == [0, 0, 0, 0, NEVER, NEVER, NO_MATCH]
    lost = ranks(
        np.full((50, 3), np.nan, np.float32),
        *(rng.standard_normal((50, 3), np.float32), labels[[0] * 50]),
        labels[[0] * 50],
        same=False,
    )
    assert recall_at(lost, (1, 10**9)) == {1: 0, 10**9: 0}


def test_queries_without_a_match_count_as_misses():
    found = np.array([0, NO_MATCH, 3, 1, NEVER])
    assert recall_at(found, (1, 2, 4, 1000)) == {1: 0.2, 2: 0.4, 4: 0.6, 1000: 0.6}
    gallery = np.eye(3, dtype=np.float32)
    empty = ranks(gallery, gallery[:0], np.arange(3), np.arange(0), same=False)
    assert empty.tolist() == [NO_MATCH] * 3


def test_shapes_that_do_not_agree_are_refused():
    x = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match='one label a row'):
        ranks(x, x, np.arange(3), np.arange(2), same=False)
    with pytest.raises(ValueError, match='one label a row'):
        ranks(x, x[:2], np.arange(3), np.arange(3), same=True)
    with pytest.raises(ValueError, match='with one d'):
        ranks(x, x[:, :2], np.arange(3), np.arange(3), same=False)


@pytest.mark.parametrize('same', [True, False])
def test_what_crosses_to_a_device_crosses_once(same, monkeypatch):
    rng = np.random.default_rng(6)
    (x, labels), (y, others) = tied(rng, 90, 4, 23), tied(rng, 120, 4, 23)
    crossed, put = [], jax.device_put

    def counted(value, device):
        crossed.append(np.asarray(value))
        return put(value, device)

    monkeypatch.setattr(jax, 'device_put', counted)
    monkeypatch.setattr(recall, '_KEPT_BYTES', 0)
    gallery = (x, labels) if same else (y, others)
    with jax.transfer_guard_host_to_device('disallow'):  # but for device_put
        found = ranks(x, gallery[0], labels, gallery[1], same=same, chunk=30)
    np.testing.assert_array_equal(found, brute_force(x, gallery[0], labels, gallery[1], same))
    blocks = [a for a in crossed if a.ndim == 2]
    assert len(blocks) == (3 if same else 7)  # of 30 rows each
    # Labels of each block, the best of the rows' blocks, and whether a pair is on the diagonal.
    assert len(crossed) - len(blocks) <= 2 * len(blocks) + 2


def test_several_devices_give_the_same_ranks():
    rng = np.random.default_rng(5)
    x, labels = tied(rng, 120, 4, 23)
    devices = jax.devices()[:3]
    assert len(devices) == 3  # virtual ones, see conftest.py
    found = ranks(x, x, labels, labels, same=True, devices=devices, chunk=17)
    np.testing.assert_array_equal(found, brute_force(x, x, labels, labels, True))
    found = ranks(x[:50], x, labels[:50], labels, same=False, devices=devices, chunk=17)
    np.testing.assert_array_equal(found, brute_force(x[:50], x, labels[:50], labels, False))
