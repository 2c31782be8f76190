"""Similarity thresholds beside brute force, closed forms and hand-made cases."""

import json

import numpy as np
import pytest

from sreml_jax.retrieval import threshold_file, thresholds
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.retrieval.thresholds import Best, Rates, Thresholds
from sreml_jax.runtime.errors import UserError


def unit(random: np.random.Generator, *shape: int) -> np.ndarray:
    x = random.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize('same', [True, False])
@pytest.mark.parametrize('chunk', [16, None])
def test_best_matches_as_brute_force(same, chunk):
    random = np.random.default_rng(0)
    query, labels = unit(random, 75, 8), random.integers(0, 9, 75)
    labels[3] = 99  # a class of one image
    query[5] = np.nan
    gallery, others = (query, labels) if same else (unit(random, 41, 8), random.integers(0, 9, 41))
    found = thresholds.best(query, gallery, Protocol(labels, others, same), chunk=chunk)

    similarity = np.nan_to_num(query @ gallery.T, nan=-np.inf)
    if same:
        np.fill_diagonal(similarity, -np.inf)
    match = labels[:, None] == others
    np.testing.assert_allclose(found.own, np.where(match, similarity, -np.inf).max(1), atol=1e-6)
    np.testing.assert_allclose(found.other, np.where(match, -np.inf, similarity).max(1), atol=1e-6)
    assert found.own[3] == found.own[5] == found.other[5] == -np.inf


def test_no_images():
    empty = np.empty((0, 4), np.float32)
    protocol = Protocol(np.empty(0, int), np.empty(0, int), True)
    found = thresholds.best(empty, empty, protocol)
    assert found.own.shape == found.other.shape == (0,)
    assert thresholds.calibrate(found, protocol) is None


def test_a_share_of_accepts_is_never_exceeded_and_just_reached():
    other = np.array([0.1, 0.5, 0.4, 0.2, 0.3], np.float32)
    for accepted, number in ((0.0, 0), (0.2, 1), (0.39, 1), (0.4, 2), (0.99, 4), (1.0, 5)):
        at = thresholds.threshold_of(other, accepted)
        assert (other >= at).sum() == number
    # Equal similarities are accepted all or not at all.
    equal = np.full(4, 0.5, np.float32)
    assert not (equal >= thresholds.threshold_of(equal, 0.5)).any()


def test_equal_errors_of_two_normal_distributions():
    random = np.random.default_rng(0)
    own, other = random.normal(0.7, 0.1, 100_000), random.normal(0.3, 0.1, 100_000)
    assert abs(thresholds.equal_errors(own, other) - 0.5) < 2e-3  # half way, two deviations from both
    protocol = Protocol(np.arange(100_000) // 100, np.arange(100_000) // 100, True)
    equal = thresholds.calibrate(Best(own, other), protocol).equal
    assert equal.false_accepts == pytest.approx(0.02275, abs=2e-3)
    assert equal.false_rejects == pytest.approx(0.02275, abs=2e-3)


def test_rates_are_those_of_the_other_half():
    """Two classes, so that each is a half, and each half's threshold is far from the other's."""
    labels = np.repeat([4, 8], 4)
    own = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35], np.float32)
    other = np.array([0.55, 0.2, 0.2, 0.1, 0.3, 0.2, 0.2, 0.1], np.float32)
    found = thresholds.calibrate(Best(own, other), Protocol(labels, labels, True))
    # A fifth of four queries is none: each half chooses just above its greatest wrong one, 0.55 and 0.3.
    fifth = found.table[thresholds.ACCEPTED.index(0.2)]
    assert fifth.threshold == pytest.approx(0.3, abs=1e-6) and fifth.threshold > np.float32(0.3)
    assert fifth.false_accepts == 1 / 8  # 0.55 against the threshold 0.3
    assert fifth.false_rejects == 4 / 8  # all of the second class against 0.55
    assert fifth.right == 1.0
    assert (found.queries, found.gallery, found.classes) == (8, 8, 2)


def test_queries_without_a_correct_match_do_not_count():
    labels = np.array([0, 0, 1, 1, 2])
    best = Best(np.array([0.9, 0.9, 0.8, 0.8, -np.inf], np.float32), np.full(5, 0.1, np.float32))
    found = thresholds.calibrate(best, Protocol(labels, labels, True))
    assert (found.queries, found.classes) == (4, 2)
    assert found.equal[1:] == (0, 0, 1)
    assert 0.1 < found.equal.threshold < 0.8
    one = Protocol(labels[:2], labels[:2], True)
    assert thresholds.calibrate(Best(best.own[:2], best.other[:2]), one) is None


def test_curves_are_the_shares_at_each_threshold():
    random = np.random.default_rng(1)
    own, other = random.random(50), random.random(50)
    labels = np.repeat(np.arange(25), 2)
    at, accepts, rejects = thresholds.curves(Best(own, other), Protocol(labels, labels, True), points=30)
    np.testing.assert_allclose(accepts, [(other >= t).mean() for t in at])
    np.testing.assert_allclose(rejects, [(own < t).mean() for t in at])


MADE = Thresholds(Rates(0.5, 0.1, 0.1, 0.9), [Rates(0.7, 0.01, 0.4, None)], 40, 41, 5)


def test_a_file_keeps_the_embeddings_of_one_checkpoint(tmp_path):
    assert threshold_file.load(tmp_path, ['abc'], 'logits', 8) is None
    threshold_file.save(tmp_path, 'abc', 'logits', 8, MADE)
    threshold_file.save(tmp_path, 'abc', 'pooled', 8, MADE._replace(queries=1))
    threshold_file.save(tmp_path, 'abc', 'logits', 8, MADE._replace(queries=2))
    assert threshold_file.load(tmp_path, ['x', 'abc'], 'logits', 8) == MADE._replace(queries=2)
    assert threshold_file.load(tmp_path, ['abc'], 'pooled', 8) == MADE._replace(queries=1)
    assert threshold_file.load(tmp_path, ['abc'], 'logits', 4) is None
    assert threshold_file.load(tmp_path, ['x'], 'logits', 8) is None
    threshold_file.save(tmp_path, 'new', 'logits', 8, MADE)
    assert threshold_file.load(tmp_path, ['new'], 'pooled', 8) is None
    assert [path.name for path in tmp_path.iterdir()] == ['thresholds.json']


@pytest.mark.parametrize('change', [
    lambda text: text[:40],
    lambda text: '[' * 100_000,
    lambda text: '[]',
    lambda text: '\x00',
    lambda text: text.replace('0.5', '"a"'),
    lambda text: text.replace('"threshold"', '"thresh"'),
    lambda text: text.replace('"abc"', 'null'),
])  # fmt: skip
def test_a_damaged_file_is_one_sentence_and_written_again(change, tmp_path):
    threshold_file.save(tmp_path, 'abc', 'logits', 8, MADE)
    path = tmp_path / 'thresholds.json'
    json.loads(path.read_text())
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=r'thresholds\.json cannot be read \(.*\); make it again by'):
        threshold_file.load(tmp_path, ['abc'], 'logits', 8)
    threshold_file.save(tmp_path, 'abc', 'logits', 8, MADE)
    assert threshold_file.load(tmp_path, ['abc'], 'logits', 8) == MADE


def test_those_of_mirrored_embeddings_are_others(tmp_path):
    threshold_file.save(tmp_path, 'abc', 'pooled', 8, MADE)
    threshold_file.save(tmp_path, 'abc', 'pooled', 8, MADE._replace(queries=3), mirrored=True)
    assert threshold_file.load(tmp_path, ['abc'], 'pooled', 8) == MADE
    assert threshold_file.load(tmp_path, ['abc'], 'pooled', 8, mirrored=True) == MADE._replace(queries=3)
    # Files of earlier versions do not say it.
    path = tmp_path / threshold_file.FILE
    saved = json.loads(path.read_text())
    saved['embeddings'] = [{k: v for k, v in saved['embeddings'][0].items() if k != 'mirrored'}]
    path.write_text(json.dumps(saved))
    assert threshold_file.load(tmp_path, ['abc'], 'pooled', 8) == MADE
    assert threshold_file.load(tmp_path, ['abc'], 'pooled', 8, mirrored=True) is None
