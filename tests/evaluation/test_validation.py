"""Recall@1 on held-out classes while a run trains: its values, the best checkpoint, an interruption."""

import jax
import numpy as np
import pytest
from support.runs import Interrupted, NoSignals, lines
from support.tiny import tiny_config, tiny_dataset

from sreml_jax import resume
from sreml_jax.data.held_out import HeldOut
from sreml_jax.embedder import Embedder
from sreml_jax.evaluation.validation import Validation
from sreml_jax.run import Run
from sreml_jax.train import train
from sreml_jax.training import checkpoint
from sreml_jax.training.checkpoint import Checkpoints


def dataset():
    """Two of the tiny dataset's eight training classes are held out; nobody may look at the test images."""
    parted = HeldOut(tiny_dataset(train=64), 0.25)
    read = parted.read

    def without_test(split, *args):
        assert split != 'test'
        return read(split, *args)

    parted.read = without_test
    return parted


def config(**fields):
    return tiny_config(validation_share=0.25, learning_rate=3e-2, num_epochs=4, schedule='constant', **fields)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    """A run trained to its end: 4 epochs of 6 steps."""
    workdir = tmp_path_factory.mktemp('runs') / 'run'
    train(config(), workdir, dataset(), NoSignals())
    return workdir


def recalls(workdir):
    """Step -> Recall@1, as metrics.jsonl has it."""
    return {x['step']: x['validation_recall'] for x in lines(workdir) if 'validation_recall' in x}


def test_the_best_checkpoint_has_the_best_recall(workdir):
    found = recalls(workdir)
    assert list(found) == [6, 12, 18, 24]
    best = max(found, key=lambda step: found[step])
    assert checkpoint.newest(workdir)[1] == 24
    embedder = Embedder(workdir / 'best')
    assert embedder.step == best
    images, labels = next(dataset().images('validation', np.arange(16), 16)), dataset().labels['validation']
    embeddings = embedder.images(images)
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -2)
    assert found[best] == pytest.approx((labels[similarity.argmax(1)] == labels).mean())


def test_every_other_epoch_and_the_last(tmp_path):
    train(config(validation_epochs=3), tmp_path, dataset(), NoSignals())
    assert list(recalls(tmp_path)) == [18, 24]


def test_an_interruption_changes_nothing(workdir, tmp_path):
    signals = NoSignals()
    with pytest.raises(SystemExit):
        train(config(), tmp_path, Interrupted(dataset(), signals, 13), signals)
    train(config(), tmp_path, dataset(), NoSignals())
    assert lines(tmp_path) == lines(workdir)
    assert checkpoint.newest(tmp_path / 'best')[1] == checkpoint.newest(workdir / 'best')[1]


def test_a_better_state_of_the_same_step_replaces_the_one_kept(tmp_path):
    # Killed after it and resumed with another rate, a run reaches that step in another state.
    start, parted = resume.start(Run.of(config()), Checkpoints(tmp_path), dataset(), tmp_path), dataset()
    better = start.state.replace(params=jax.tree.map(lambda x: x + 1, start.state.params))
    for found, state in ((0.25, start.state), (0.5, better)):
        kept = Validation(start, parted, tmp_path)
        kept.keep(found, state, 0)
        kept.close()
    found = Embedder(tmp_path / 'best').variables['params']
    jax.tree.map(np.testing.assert_array_equal, found, better.params)
