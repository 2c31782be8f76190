"""Nearest neighbors against a full stable sort, in memory and in an index on disk."""

import sys

import jax
import numpy as np
import pytest
from support.indexes import DIMENSIONS, add, embeddings_of, names

from sreml_jax.retrieval import blocks
from sreml_jax.runtime.errors import UserError
from sreml_jax.search import approximate
from sreml_jax.search import exact as search
from sreml_jax.search.approximate import Approximate
from sreml_jax.search.exact import nearest
from sreml_jax.search.index import Index


@pytest.mark.parametrize(
    ('n', 'd', 'k', 'chunk'), [(2, 1, 1, 1), (37, 1, 11, 7), (90, 4, 200, 13), (130, 6, 5, None)]
)
@pytest.mark.parametrize('same', [True, False])
def test_equals_a_full_sort(n, d, k, chunk, same):
    rng = np.random.default_rng(n)
    query = rng.integers(-2, 3, (n, d)).astype(np.float32)
    gallery = query if same else rng.integers(-2, 3, (n // 2, d)).astype(np.float32)
    similarity = query @ gallery.T
    if same:
        np.fill_diagonal(similarity, -np.inf)
    want = np.argsort(-similarity, 1, kind='stable')[:, : min(k, len(gallery) - same)]
    indices, similarities = nearest(query, gallery, k, same=same, chunk=chunk, devices=jax.devices()[:1])
    np.testing.assert_array_equal(indices, want)
    np.testing.assert_array_equal(similarities, np.take_along_axis(similarity, want, 1))


def test_nan_comes_last_but_before_the_query_itself():
    x = np.array([[1, 0], [np.nan, 0], [0, 1], [0.5, 0]], np.float32)
    indices, _ = nearest(x, x, 3, same=True)
    assert indices[0].tolist() == [3, 2, 1]
    assert sorted(indices[1]) == [0, 2, 3]


def test_several_devices_find_the_same():
    x = np.random.default_rng(0).integers(-2, 3, (60, 4)).astype(np.float32)
    one, three = (nearest(x, x, 7, same=True, devices=jax.devices()[:n], chunk=17)[0] for n in (1, 3))
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize('queries', [1, 3, 40])
@pytest.mark.parametrize('devices', [1, 3])
def test_few_queries_against_a_long_gallery(queries, devices, monkeypatch):
    monkeypatch.setattr(search, '_TILE_BYTES', 10_000)  # several long blocks
    rng = np.random.default_rng(queries)
    query, gallery = (rng.integers(-2, 3, (n, 5)).astype(np.float32) for n in (queries, 3_001))
    similarity = query @ gallery.T
    want = np.argsort(-similarity, 1, kind='stable')[:, :9]
    indices, similarities = nearest(query, gallery, 9, same=False, devices=jax.devices()[:devices])
    np.testing.assert_array_equal(indices, want)
    np.testing.assert_array_equal(similarities, np.take_along_axis(similarity, want, 1))


def test_no_queries_and_no_gallery():
    none, some = np.zeros((0, 4), np.float32), np.ones((3, 4), np.float32)
    assert nearest(none, some, 2, same=False)[0].shape == (0, 2)
    assert nearest(some, none, 2, same=False)[0].shape == (3, 0)


def test_a_query_of_another_length_is_refused(tmp_path):
    add(tmp_path, names(0, 3))
    with pytest.raises(UserError, match=r'is of 5 numbers and .* holds embeddings of \d+; set config.embed'):
        search.search(np.ones((1, 5), np.float32), Index(tmp_path))


@pytest.mark.parametrize('kind', ['float32', 'float16', 'int8'])
def test_of_an_index_equals_numpy(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(search, '_TILE_BYTES', 3_000)
    monkeypatch.setattr(blocks, '_HELD_BYTES', 0)
    paths = names(0, 700)
    add(tmp_path, paths, storage=kind)
    query = np.concatenate([embeddings_of(names(17, 18)), embeddings_of(names(0, 4), seed=1)])
    stored = np.load(tmp_path / 'embeddings.npy').astype(np.float64)
    if kind == 'int8':
        stored /= 127 * np.sqrt(3)  # three members
    similarity = query @ stored.T
    found = search.search(query, Index(tmp_path), top=5)
    for matches, row in zip(found, similarity, strict=True):
        want = np.argsort(-row, kind='stable')[:5]
        assert [match.item.path for match in matches] == [paths[i] for i in want]
        assert [match.rank for match in matches] == [1, 2, 3, 4, 5]
        np.testing.assert_allclose([match.similarity for match in matches], row[want], atol=1e-6)
    assert found[0][0].item.path == paths[17]
    assert abs(found[0][0].similarity - 1) < (0.02 if kind == 'int8' else 1e-3)


def test_an_index_smaller_than_what_is_asked_for(tmp_path):
    add(tmp_path, names(0, 3))
    assert [len(matches) for matches in search.search(embeddings_of(names(0, 2)), Index(tmp_path))] == [3, 3]
    add(tmp_path / 'none', [])
    assert search.search(embeddings_of(names(0, 2)), Index(tmp_path / 'none')) == [[], []]


@pytest.mark.parametrize('kind', ['float32', 'int8'])
def test_approximate(kind, tmp_path, monkeypatch):
    pytest.importorskip('faiss', reason='faiss is not installed')
    monkeypatch.setattr(approximate, '_CHUNK', 500)
    paths = names(0, 3_000)
    add(tmp_path, paths, storage=kind)
    index = Index(tmp_path)
    lists = Approximate(index)
    assert 0.95 <= lists.recall <= 1
    assert 1 <= lists.probes < lists.lists
    # The recall that it tells of, measured on queries of our own by numpy.
    query = embeddings_of(names(0, 100), seed=1)
    similarity = query @ (index.embeddings.astype(np.float32) * np.float32(index.scale)).T
    exact = np.argsort(-similarity, 1)[:, :10]
    rows, similarities = lists.search(query, 10)
    recall = np.mean([np.isin(e, r).mean() for e, r in zip(exact, rows, strict=True)])
    assert recall > 0.85
    np.testing.assert_allclose(similarities, np.take_along_axis(similarity, rows, 1), atol=1e-6)
    assert (np.diff(similarities) <= 0).all()

    again = Approximate(index)  # from its file
    assert (again.recall, again.probes, again.lists) == (lists.recall, lists.probes, lists.lists)
    np.testing.assert_array_equal(again.search(query, 10)[0], rows)
    found = search.search(query[:2], index, 4, approximate=again)
    assert [[match.item.path for match in f] for f in found] == [[paths[i] for i in r[:4]] for r in rows[:2]]

    add(tmp_path, names(3_000, 3_001), storage=kind)
    changed = Approximate(Index(tmp_path))  # of the new state
    assert 0.95 <= changed.recall <= 1
    assert changed.search(embeddings_of(names(3_000, 3_001)), 1)[0].tolist() == [[3_000]]
    assert sorted(path.suffix for path in tmp_path.glob('approximate-*')) == ['.faiss', '.json']


def test_approximate_looks_further_where_its_lists_hold_too_few(tmp_path, monkeypatch):
    pytest.importorskip('faiss', reason='faiss is not installed')
    monkeypatch.setattr(approximate, 'RECALL', 0)  # one list a query
    add(tmp_path, paths := names(0, 400))
    lists = Approximate(Index(tmp_path))
    assert lists.probes == 1 and lists.lists > 5
    query = embeddings_of(names(0, 20), seed=1)
    similarity = query @ embeddings_of(paths).T
    for k in (5, 300, 400):
        rows, similarities = lists.search(query, k)
        assert all(len(set(row)) == k for row in rows.tolist())
        np.testing.assert_allclose(similarities, np.take_along_axis(similarity, rows, 1), atol=1e-6)
    np.testing.assert_array_equal(rows, np.argsort(-similarity, 1))  # k is the whole index


def test_approximate_of_an_index_of_a_few_images(tmp_path):
    pytest.importorskip('faiss', reason='faiss is not installed')
    add(tmp_path, names(0, 5))
    lists = Approximate(Index(tmp_path))
    assert lists.recall == 1
    assert sorted(lists.search(np.eye(1, DIMENSIONS, dtype=np.float32), 10)[0][0]) == [0, 1, 2, 3, 4]


def test_faiss_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'faiss', None)
    add(tmp_path, names(0, 5))
    with pytest.raises(UserError, match=r'pip install "sreml_jax\[ann\]"'):
        Approximate(Index(tmp_path))
