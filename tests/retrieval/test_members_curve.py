"""The members curve against similarities recomputed from each member's own logits."""

import numpy as np
import pytest

from sreml_jax.model.ensemble import embed
from sreml_jax.retrieval import members_curve
from sreml_jax.retrieval.members_curve import Point
from sreml_jax.retrieval.protocol import Protocol

MEMBERS, META_CLASSES, IMAGES = 5, 3, 40


def drawn(images=IMAGES, seed=0):
    """Logits [images, members, meta classes] that tell eight classes apart a little, and the labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(images) % 8
    centers = np.random.default_rng(1).standard_normal((8, MEMBERS, META_CLASSES))
    return (centers[labels] + random.standard_normal((images, MEMBERS, META_CLASSES))).astype('f'), labels


def by_hand(logits, labels, chosen):
    """Recall@1 of self-retrieval by a sum of the chosen members' cosines."""
    unit = logits / np.linalg.norm(logits, axis=-1, keepdims=True)
    similarity = sum(unit[:, m].astype(float) @ unit[:, m].T.astype(float) for m in chosen)
    np.fill_diagonal(similarity, -np.inf)
    return np.mean(labels[similarity.argmax(1)] == labels)


def test_every_subset_of_few_members():
    logits, labels = drawn()
    x = np.asarray(embed(logits))
    curve = members_curve.members_curve(x, x, Protocol(labels, labels, True), members=MEMBERS)
    assert [(p.members, p.subsets) for p in curve] == [(1, 5), (2, 10), (4, 5), (5, 1)]
    ones = [by_hand(logits, labels, [m]) for m in range(MEMBERS)]
    assert curve[0].mean == pytest.approx(np.mean(ones)) and curve[0].deviation == pytest.approx(
        np.std(ones, ddof=1)
    )
    without = [by_hand(logits, labels, set(range(MEMBERS)) - {m}) for m in range(MEMBERS)]
    assert curve[2].mean == pytest.approx(np.mean(without))
    assert curve[3] == Point(5, 1, pytest.approx(by_hand(logits, labels, range(MEMBERS))), 0.0)
    assert curve[3].mean > curve[0].mean + 0.1


def test_queries_and_gallery():
    (logits, labels), (others, other_labels) = drawn(), drawn(24, seed=5)
    x, y = np.asarray(embed(logits)), np.asarray(embed(others))
    curve = members_curve.members_curve(x, y, Protocol(labels, other_labels, False), members=MEMBERS)
    best = (x @ y.T).argmax(1)
    assert curve[-1].mean == pytest.approx(np.mean(other_labels[best] == labels))

    def of_one(m):
        u, v = (a[:, m] / np.linalg.norm(a[:, m], axis=-1, keepdims=True) for a in (logits, others))
        return np.mean(other_labels[(u @ v.T).argmax(1)] == labels)

    assert curve[0].mean == pytest.approx(np.mean([of_one(m) for m in range(MEMBERS)]))


def test_subsets_differ_and_are_seeded():
    draw = lambda: members_curve.subsets(48, 4, np.random.default_rng(3))  # noqa: E731
    chosen = [tuple(np.flatnonzero(c)) for c in draw()]
    assert len(set(chosen)) == len(chosen) == 10
    assert all(len(set(c)) == 4 and max(c) < 48 for c in chosen)
    np.testing.assert_array_equal(draw(), draw())
    assert members_curve.numbers(48) == [1, 2, 4, 8, 16, 32, 48] and members_curve.numbers(1) == [1]


def test_of_many_images_whole_classes_are_drawn(monkeypatch):
    monkeypatch.setattr(members_curve, 'IMAGES', 20)
    labels = np.arange(60) // 6
    kept = members_curve.sample(Protocol(labels, labels, True), np.random.default_rng(0))
    assert len(kept) == 3 and set(kept) <= set(labels)
    # Of queries and gallery both count.
    assert len(members_curve.sample(Protocol(labels, labels, False), np.random.default_rng(0))) == 1


@pytest.mark.parametrize('same', [True, False])
def test_of_many_images_the_drawn_classes_are_searched(same, monkeypatch):
    monkeypatch.setattr(members_curve, 'IMAGES', 20)
    (logits, labels), (others, other_labels) = drawn(), drawn(24, seed=5)
    if same:
        others, other_labels = logits, labels
    x, y = np.asarray(embed(logits)), np.asarray(embed(others))
    protocol = Protocol(labels, other_labels, same)
    curve = members_curve.members_curve(x, x if same else y, protocol, members=MEMBERS)
    classes = members_curve.sample(protocol, np.random.default_rng(0))
    of_query, of_gallery = np.isin(labels, classes), np.isin(other_labels, classes)
    assert 0 < of_query.sum() < len(labels)
    similarity = x[of_query] @ y[of_gallery].T
    if same:
        np.fill_diagonal(similarity, -np.inf)
    found = other_labels[of_gallery][similarity.argmax(1)]
    assert curve[-1].mean == pytest.approx(np.mean(found == labels[of_query]))
