"""Recall@1 of subsets against ranks of the selected columns, by brute force in exact arithmetic."""

import jax
import numpy as np
import pytest
from support.compiled import programs

from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.retrieval.subsets import recall_at_1

MEMBERS, DIMENSIONS = 5, 3


def drawn(n, classes, seed):
    """Integers, of which every product and sum is exact, so that ties are too."""
    rng = np.random.default_rng(seed)
    return rng.integers(-2, 3, (n, MEMBERS * DIMENSIONS)).astype(np.float32), rng.integers(0, classes, n)


def brute_force(query, gallery, protocol, members):
    """The definition, one query at a time."""
    used = np.repeat(members, DIMENSIONS)
    hits = []
    for i, s in enumerate(query[:, used].astype(float) @ gallery[:, used].T.astype(float)):
        match = protocol.gallery_labels == protocol.query_labels[i]
        wrong = s[~match]
        if protocol.same:
            match[i] = False
        hits.append(match.any() and not (wrong >= s[match].max()).any())
    return np.mean(hits)


@pytest.mark.parametrize('same', [True, False])
@pytest.mark.parametrize('chunk', [7, 32, None])
@pytest.mark.parametrize('devices', [1, 3])
def test_equals_brute_force(same, chunk, devices):
    query, labels = drawn(61, 9, 0)
    gallery, others = (query, labels) if same else drawn(90, 14, 1)
    protocol = Protocol(labels, others, same)
    chosen = np.random.default_rng(2).random((6, MEMBERS)) < 0.5
    chosen[0] = True
    found = recall_at_1(query, gallery, protocol, chosen, devices=jax.devices()[:devices], chunk=chunk)
    want = [brute_force(query, gallery, protocol, c) for c in chosen]
    np.testing.assert_allclose(found, want, rtol=1e-12)
    assert max(want) > 0


def test_equal_embeddings_tie_exactly():
    # Every image exists once in its own class and once in another: a tie, which is a miss.
    rng = np.random.default_rng(3)
    x = rng.standard_normal((40, 48 * 12)).astype(np.float32)
    x = np.concatenate([x, x, x[rng.permutation(40)]])
    labels = np.concatenate([np.arange(40), np.arange(40), 40 + np.arange(40)])
    chosen = rng.random((9, 48)) < 0.3
    for chunk in (17, 48, None):
        assert not recall_at_1(x, x, Protocol(labels, labels, True), chosen, chunk=chunk).any()


def test_nan_is_never_a_hit():
    x = np.eye(6, dtype=np.float32)[[0, 0, 1, 1]]
    x[3, 5] = np.nan
    labels = np.array([0, 0, 1, 1])
    assert recall_at_1(x, x, Protocol(labels, labels, True), np.ones((1, 2), bool)).tolist() == [0.5]


def test_one_program_for_all_subsets():
    x, labels = drawn(203, 9, 4)
    chosen = np.random.default_rng(5).random((61, MEMBERS)) < 0.5
    with programs() as compiled:
        recall_at_1(x, x, Protocol(labels, labels, True), chosen, devices=jax.devices()[:1], chunk=48)
    assert len(compiled) <= 1
