"""The retrieval protocol against the definition, one query at a time."""

import numpy as np
import pytest
from support.tiny import tiny_dataset

from sreml_jax.data.in_memory import ArrayDataset
from sreml_jax.retrieval.protocol import Protocol


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('same', [True, False])
def test_relevant_counts_the_other_images_of_the_class(seed, same):
    rng = np.random.default_rng(seed)
    query = rng.integers(-3, 8, 40)
    gallery = query if same else rng.integers(0, 12, 25)  # some classes are of one side only
    want = [
        sum(label == other and not (same and i == j) for j, other in enumerate(gallery.tolist()))
        for i, label in enumerate(query.tolist())
    ]
    assert Protocol(query, gallery, same).relevant.tolist() == want
    assert 0 in want or same


def test_relevant_where_one_side_is_empty():
    some, none = np.array([4, 4]), np.array([], int)
    assert Protocol(some, none, False).relevant.tolist() == [0, 0]
    assert Protocol(none, some, False).relevant.tolist() == []
    assert Protocol(none, none, True).relevant.tolist() == []


@pytest.mark.parametrize('same', [True, False])
def test_of_classes_keeps_the_rows_of_these_classes(same):
    rng = np.random.default_rng(7)
    query = rng.integers(0, 9, 30)
    gallery = query if same else rng.integers(2, 14, 50)
    classes = np.array([8, 2, 13, 99])
    queries, images, kept = Protocol(query, gallery, same).of_classes(classes)
    assert queries.tolist() == [label in classes.tolist() for label in query.tolist()]
    assert images.tolist() == [label in classes.tolist() for label in gallery.tolist()]
    assert kept.query_labels.tolist() == [label for label in query.tolist() if label in (8, 2, 13)]
    assert kept.gallery_labels.tolist() == [label for label in gallery.tolist() if label in (8, 2, 13)]
    assert kept.same == same


def test_of_a_dataset():
    dataset = tiny_dataset()
    protocol = Protocol.of(dataset)
    assert protocol.same and protocol.name == 'self-retrieval'
    np.testing.assert_array_equal(protocol.query_labels, dataset.labels['test'])
    np.testing.assert_array_equal(protocol.gallery_labels, dataset.labels['test'])

    labels = {'train': np.zeros(2, int), 'query': np.array([5, 6]), 'gallery': np.array([6, 6, 7])}
    images = {split: np.zeros((len(x), 4, 4, 3), np.uint8) for split, x in labels.items()}
    protocol = Protocol.of(ArrayDataset('two', images, labels))
    assert not protocol.same and protocol.name == 'query/gallery'
    assert (protocol.query_labels.tolist(), protocol.gallery_labels.tolist()) == ([5, 6], [6, 6, 7])
    assert protocol.relevant.tolist() == [0, 2]


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r'query_labels must be \[images\], one label a row, not \(2, 1\)'):
        Protocol(np.zeros((2, 1), int), np.zeros(2, int), False)
    with pytest.raises(ValueError, match=r'gallery_labels must be .* not \(\)'):
        Protocol(np.zeros(2, int), np.array(3), False)
    with pytest.raises(ValueError, match='same=True, but 3 queries and 2 gallery images'):
        Protocol(np.arange(3), np.arange(2), True)


def test_labels_are_numbered_in_ascending_order():
    query, gallery = Protocol(np.array([70, 5, 70]), np.array([5, -2, 900, 70]), False).numbered
    assert query.tolist() == [2, 1, 2] and gallery.tolist() == [1, 0, 3, 2]
    assert query.dtype == gallery.dtype == np.int32
