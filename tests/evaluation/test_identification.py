"""Votes and thresholds of a run, as eval prints, draws and stores them, and as search reads them."""

import json

import numpy as np
import pytest
from PIL import Image
from support.looking import begun
from support.tiny import tiny_dataset

from sreml_jax.embedder import Embedder
from sreml_jax.evaluation import identification
from sreml_jax.retrieval import pca, thresholds
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.search.verdict import threshold_of


def test_what_eval_measures_is_what_search_uses(tmp_path, capsys):
    embedder, dataset = Embedder(begun(tmp_path / 'run'), reduce=False), tiny_dataset()
    assert threshold_of(embedder) is None
    embeddings = embedder.split(dataset, 'test')
    entries = identification.measure(embedder, dataset, {'test': embeddings})
    printed = capsys.readouterr().out

    equal = entries['thresholds']['equal']
    assert threshold_of(embedder) == equal['threshold']
    assert (entries['thresholds']['queries'], entries['thresholds']['classes']) == (42, 8)
    line = next(line.split() for line in printed.splitlines() if 'search and serve' in line)
    assert line[0] == f'{equal["threshold"]:.4f}' and line[1] == f'{100 * equal["false_accepts"]:.2f}%'
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -np.inf)
    labels = dataset.labels['test']
    wrong = np.where(labels[:, None] == labels, -np.inf, similarity).max(1)
    for rates, accepted in zip(entries['thresholds']['table'], (0.01, 0.02, 0.05, 0.1, 0.2), strict=True):
        allowed, at = int(accepted * 42), rates['threshold']
        # Blocks round otherwise than numpy.
        assert (wrong >= at + 1e-5).sum() <= allowed < (wrong >= at - 1e-5).sum()
    first = labels[similarity.argmax(1)] == labels
    assert entries['votes']['1'] == pytest.approx(first.mean())
    assert f'of 1: {100 * first.mean():.2f}%, of 3: ' in printed
    json.dumps(entries)
    with Image.open(tmp_path / 'run' / 'thresholds.png') as picture:
        assert picture.size == (960, 600)


def test_a_reduced_embedding_has_its_own_threshold(tmp_path, capsys):
    run, dataset = begun(tmp_path / 'run'), tiny_dataset()
    whole = Embedder(run)
    training = whole.split(dataset, 'train')
    pca.save(run, 'logits', pca.fit(training, 3), whole.fingerprint)
    config = whole.run.config.copy_and_resolve_references()
    config.embedding_dim = 3
    embedder = Embedder(run, config, reduce=False)
    identification.measure(embedder, dataset, {'test': embedder.split(dataset, 'test')})
    short = Embedder(run, config)
    x, protocol = short.split(dataset, 'test'), Protocol.of(dataset)
    expected = thresholds.calibrate(thresholds.best(x, x, protocol), protocol).equal.threshold
    assert threshold_of(short) == pytest.approx(expected, abs=1e-5)
    assert threshold_of(short) != threshold_of(whole)
    saved = json.loads((run / 'thresholds.json').read_text())['embeddings']
    assert [one['dimensions'] for one in saved] == [8, 3]


def test_votes_of_hand_made_neighbors():
    """Two classes on a line: of each image's three nearest, two are of its own class or of the other."""
    angles = np.array([0.0, 0.1, 0.2, 0.25, 0.9, 1.0, 1.1, 1.2])
    x = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    shares = identification.votes(x, x, Protocol(labels, labels, True))
    assert set(shares) == {1, 3, 5}  # there are seven others
    assert shares[1] == 6 / 8  # 0.25 and 0.2 are each other's nearest
    nearest = np.argsort(np.abs(angles[:, None] - angles) + 9 * np.eye(8), 1)[:, :3]
    assert shares[3] == np.mean((labels[nearest] == labels[:, None]).sum(1) >= 2)
