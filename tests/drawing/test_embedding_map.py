"""The map of embeddings: neighbors stay neighbors, and odd inputs end well."""

import numpy as np

from sreml_jax.drawing.embedding_map import lay_out


def clusters(number: int, of: int) -> np.ndarray:
    random = np.random.default_rng(0)
    centers = np.repeat(random.normal(size=(number, 16)), of, 0)
    embeddings = centers + random.normal(0, 0.05, centers.shape)
    return (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)


def test_what_is_alike_lies_together():
    laid = lay_out(clusters(4, 10))
    assert laid.chosen.tolist() == list(range(40))
    assert laid.places.min() >= 0 and laid.places.max() <= 1
    np.testing.assert_allclose(np.ptp(laid.places, 0).max(), 1)
    distance = np.linalg.norm(laid.places[:, None] - laid.places, axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(1) // 10 == np.arange(40) // 10).all()
    assert np.array_equal(lay_out(clusters(4, 10)).places, laid.places)


def test_of_many_some_are_drawn():
    laid = lay_out(clusters(4, 10), most=15)
    assert len(laid.chosen) == len(set(laid.chosen.tolist())) == len(laid.places) == 15
    assert (np.diff(laid.chosen) > 0).all()


def test_what_cannot_be_laid_out():
    embeddings = clusters(4, 10)
    embeddings[3, 0] = np.nan
    assert 3 not in lay_out(embeddings).chosen
    assert lay_out(embeddings[:7]) is None
    assert lay_out(np.ones((20, 4), np.float32) / 2) is None
