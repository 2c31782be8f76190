"""Exact search in an index on disk, against numpy."""

import numpy as np
import pytest
from support.indexes import add, embeddings_of, names

from sreml_jax.retrieval import blocks
from sreml_jax.runtime.errors import UserError
from sreml_jax.search.exact import search
from sreml_jax.search.index import Index


def test_a_query_of_another_length_is_refused(tmp_path):
    add(tmp_path, names(0, 3))
    with pytest.raises(
        UserError, match=r'has 5 dimensions and the embeddings in .* have 12; make the Embedder with'
    ):
        search(np.ones((1, 5), np.float32), Index(tmp_path))


@pytest.mark.parametrize('kind', ['float32', 'float16', 'int8'])
def test_of_an_index_equals_numpy(kind, tmp_path, monkeypatch):
    monkeypatch.setattr('sreml_jax.retrieval.nearest._TILE_BYTES', 3_000)
    monkeypatch.setattr(blocks, '_HELD_BYTES', 0)
    paths = names(0, 700)
    add(tmp_path, paths, storage=kind)
    query = np.concatenate([embeddings_of(names(17, 18)), embeddings_of(names(0, 4), seed=1)])
    stored = np.load(tmp_path / 'embeddings.npy').astype(np.float64)
    if kind == 'int8':
        stored /= 127 * np.sqrt(3)  # three members
    similarity = query @ stored.T
    found = search(query, Index(tmp_path), top=5)
    for matches, row in zip(found, similarity, strict=True):
        want = np.argsort(-row, kind='stable')[:5]
        assert [match.item.path for match in matches] == [paths[i] for i in want]
        assert [match.rank for match in matches] == [1, 2, 3, 4, 5]
        np.testing.assert_allclose([match.similarity for match in matches], row[want], atol=1e-6)
    assert found[0][0].item.path == paths[17]
    assert abs(found[0][0].similarity - 1) < (0.02 if kind == 'int8' else 1e-3)


def test_an_index_smaller_than_what_is_asked_for(tmp_path):
    add(tmp_path, names(0, 3))
    assert [len(matches) for matches in search(embeddings_of(names(0, 2)), Index(tmp_path))] == [3, 3]
    add(tmp_path / 'none', [])
    assert search(embeddings_of(names(0, 2)), Index(tmp_path / 'none')) == [[], []]
