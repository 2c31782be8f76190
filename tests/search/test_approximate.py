"""Approximate search by FAISS, against exact search by numpy."""

import sys
from pathlib import Path

import numpy as np
import pytest
from support.indexes import DIMENSIONS, add, embeddings_of, names

from sreml_jax.runtime.errors import UserError
from sreml_jax.search import approximate
from sreml_jax.search.approximate import Approximate
from sreml_jax.search.exact import search
from sreml_jax.search.index import Index


def query_rows(index):
    """Images of the index, as queries."""
    return index.embeddings[::10].astype(np.float32) * np.float32(index.scale)


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
    assert recall > 0.85  # of queries that lie farther from the images than images do
    own = query_rows(index)
    exact = np.argsort(-own @ (index.embeddings.astype(np.float32) * np.float32(index.scale)).T, 1)[:, :10]
    recall = np.mean([np.isin(e, r).mean() for e, r in zip(exact, lists.search(own, 10)[0], strict=True)])
    assert recall == pytest.approx(lists.recall, abs=0.03)
    np.testing.assert_allclose(similarities, np.take_along_axis(similarity, rows, 1), atol=1e-6)
    assert (np.diff(similarities) <= 0).all()

    again = Approximate(index)  # from its file
    assert (again.recall, again.probes, again.lists) == (lists.recall, lists.probes, lists.lists)
    np.testing.assert_array_equal(again.search(query, 10)[0], rows)
    found = search(query[:2], index, 4, lambda query, _, k: again.search(query, k))
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


@pytest.mark.parametrize('suffix', ['.faiss', '.json'])
@pytest.mark.parametrize('content', [b'', b'garbage', b'{}', b'[]', None])
def test_a_damaged_file_is_built_again(suffix, content, tmp_path):
    pytest.importorskip('faiss', reason='faiss is not installed')
    add(tmp_path, names(0, 100))
    lists = Approximate(Index(tmp_path))
    (path,) = tmp_path.glob(f'approximate-*{suffix}')
    path.write_bytes(content) if content is not None else path.unlink()
    again = Approximate(Index(tmp_path))
    assert (again.recall, again.probes, again.lists) == (lists.recall, lists.probes, lists.lists)
    assert path.stat().st_size > 10


def test_lists_that_cannot_be_kept_are_searched_all_the_same(tmp_path, monkeypatch, caplog):
    faiss = pytest.importorskip('faiss', reason='faiss is not installed')
    add(tmp_path, names(0, 100))
    write = faiss.write_index

    def cut(lists, path):  # what a full disk leaves, of which FAISS says nothing
        write(lists, path)
        Path(path).write_bytes(Path(path).read_bytes()[:-1000])

    def refused(lists, path):
        raise RuntimeError(f'Error: could not open {path} for writing')

    for broken in (cut, refused):
        caplog.clear()
        monkeypatch.setattr(faiss, 'write_index', broken)
        lists = Approximate(Index(tmp_path))
        assert lists.search(np.eye(1, DIMENSIONS, dtype=np.float32), 3)[0].shape == (1, 3)
        assert 'the lists of --approximate are not kept' in caplog.text
        assert not list(tmp_path.glob('approximate-*'))


def test_faiss_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'faiss', None)
    add(tmp_path, names(0, 5))
    with pytest.raises(UserError, match=r'pip install "sreml_jax\[ann\]"'):
        Approximate(Index(tmp_path))
