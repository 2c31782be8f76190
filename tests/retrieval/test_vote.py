"""The class by the vote of the neighbors, beside counting by hand."""

from collections import Counter

import numpy as np

from sreml_jax.retrieval.vote import NO_CLASS, vote


def test_hand_made_votes():
    labels = np.array([[1, 2, 2], [1, 2, 3], [NO_CLASS, 4, NO_CLASS], [NO_CLASS] * 3, [2, 1, NO_CLASS]])
    similarities = np.array(
        [[0.9, 0.5, 0.1], [0.3, 0.5, 0.4], [1, 0.1, 1], [1, 1, 1], [0.5, 0.5, 1]], np.float32
    )
    winners, votes = vote(labels, np.array(similarities, np.float32))
    assert winners.tolist() == [2, 2, 4, NO_CLASS, 2]  # full ties go to the first
    assert votes.tolist() == [2, 1, 1, 0, 1]


def test_as_counted_one_by_one():
    random = np.random.default_rng(0)
    labels, similarities = random.integers(-1, 4, (200, 7)), random.random((200, 7), np.float32)
    for row, similar, winner, votes in zip(labels, similarities, *vote(labels, similarities), strict=True):
        counts = Counter(row[row >= 0].tolist())
        sums = {label: similar[row == label].sum() for label in counts}
        want = max(counts, key=lambda label: (counts[label], sums[label]), default=NO_CLASS)
        assert (winner, votes) == (want, counts[want] if counts else 0)


def test_no_neighbors():
    winners, votes = vote(np.empty((3, 0), int), np.empty((3, 0), np.float32))
    assert winners.tolist() == [NO_CLASS] * 3 and votes.tolist() == [0] * 3
