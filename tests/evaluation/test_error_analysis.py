"""Hardest classes, best and worst queries, against a retrieval small enough to be done by hand."""

import numpy as np
from support.tiny import tiny_dataset

from sreml_jax.data.in_memory import ArrayDataset
from sreml_jax.evaluation.error_analysis import Retrieved
from sreml_jax.retrieval.recall import NO_MATCH

# Degrees on the unit circle, and the class of each.
IMAGES = [(0, 1), (4, 1), (50, 2), (57, 3), (61, 2), (63, 3), (120, 4), (200, 5), (203, 5)]


def by_hand() -> Retrieved:
    angles, labels = np.radians([a for a, _ in IMAGES]), np.array([label for _, label in IMAGES])
    images = np.zeros((9, 8, 8, 3), np.uint8)
    dataset = ArrayDataset('by hand', {'train': images, 'test': images}, {'train': labels, 'test': labels})
    embeddings = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    return Retrieved.of(dataset, embeddings, embeddings, 3)


def test_neighbors_by_hand():
    retrieved = by_hand()
    assert retrieved.neighbors[0].tolist() == [1, 2, 3]
    assert retrieved.neighbors[4].tolist() == [5, 3, 2]
    np.testing.assert_allclose(retrieved.similarities[0], np.cos(np.radians([4, 50, 57])), atol=1e-6)
    assert retrieved.correct[:3].tolist() == [
        [True, False, False],
        [True, False, False],
        [False, True, False],
    ]
    assert retrieved.ranks.tolist() == [0, 0, 1, 1, 2, 1, NO_MATCH, 0, 0]
    assert retrieved.protocol.relevant.tolist() == [1, 1, 1, 1, 1, 1, 0, 1, 1]


def test_hardest_classes():
    hardest = by_hand().hardest(5)
    # Class 4 has no match at all: that is no fault of the embedding.
    assert [(hard.label, hard.queries, hard.recall, hard.taken_for, hard.times) for hard in hardest] == [
        (2, 2, 0, 3, 2),
        (3, 2, 0, 2, 2),
    ]
    assert [hard.example for hard in hardest] == [2, 3]
    assert by_hand().hardest(1) == hardest[:1]


def test_best_and_worst_are_of_different_classes():
    assert by_hand().best(5).tolist() == [7, 0]  # 3 degrees apart, then 4
    assert by_hand().worst(5).tolist() == [4, 3]
    assert by_hand().worst(1).tolist() == [4]


def test_query_and_gallery():
    test = tiny_dataset()
    images, labels = next(test.images('test', np.arange(42), 42)), test.labels['test']
    splits = {'train': images, 'query': images[:10], 'gallery': images[10:]}
    dataset = ArrayDataset('two', splits, {'train': labels, 'query': labels[:10], 'gallery': labels[10:]})
    random = np.random.default_rng(0).normal(size=(42, 6)).astype(np.float32)
    embeddings = random / np.linalg.norm(random, axis=1, keepdims=True)
    retrieved = Retrieved.of(dataset, embeddings[:10], embeddings[10:], 4)

    similarity = embeddings[:10] @ embeddings[10:].T
    assert retrieved.neighbors.tolist() == np.argsort(-similarity, 1)[:, :4].tolist()
    assert retrieved.protocol.relevant.tolist() == (labels[:10, None] == labels[10:]).sum(1).tolist()
