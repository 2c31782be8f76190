"""Whole runs on a tiny dataset: what they leave behind, and resuming exactly."""

import jax
import numpy as np
import pytest
from support.runs import Interrupted, NoSignals, StopAfter, adam_of, final_state, lines
from support.tiny import tiny_config, tiny_dataset

from sreml_jax.model.ensemble import normalize
from sreml_jax.run import Run
from sreml_jax.runtime.errors import UserError
from sreml_jax.train import train
from sreml_jax.training import checkpoint, meta_classes, step

pytestmark = pytest.mark.usefixtures('few_blocks')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A run that was never interrupted: (config, workdir)."""
    config, workdir = tiny_config(), tmp_path_factory.mktemp('whole')
    train(config, workdir, tiny_dataset(), NoSignals())
    return config, workdir


def test_a_run_logs_every_step_and_learns(whole):
    _, workdir = whole
    logged = lines(workdir)
    assert [line['step'] for line in logged] == list(range(1, 13))  # 36 images in batches of 8, 3 epochs
    assert np.mean([line['loss'] for line in logged[-4:]]) < np.mean([line['loss'] for line in logged[:4]])
    # The step schedule's milestones: int(1.5) and int(2.1) epochs of 4 steps.
    rates = [line['learning_rate'] for line in logged]
    np.testing.assert_allclose(rates, np.repeat([1e-3, 1e-4, 1e-5], 4), rtol=1e-5)


def test_a_step_is_that_of_the_model_by_itself(tmp_path):
    config, dataset = tiny_config(label_smoothing=0.4), tiny_dataset()
    with pytest.raises(SystemExit):
        train(config, tmp_path, dataset, StopAfter(1))
    batch = next(dataset.train_batches(config.batch_size, 1, config.seed))
    run = Run.of(config)
    state = step.initial_state(run.model, adam_of(run), run.mesh, config.seed)
    images = normalize(batch['image'], dataset.mean, dataset.std)
    logits, updates = jax.jit(lambda *a: run.model.apply(*a, train=True, mutable=['batch_stats']))(
        state.variables, images
    )
    table = meta_classes.draw(8, config.ensemble_size, config.meta_class_size, config.seed)
    targets = 0.1 + 0.6 * np.eye(4)[table.T[batch['label']]]
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -(targets * np.log(probabilities)).sum(-1).mean()
    logged = lines(tmp_path)[0]
    np.testing.assert_allclose(logged['loss'], expected, rtol=1e-4)
    hits = np.asarray(logits).argmax(-1) == table.T[batch['label']]
    assert logged['accuracy'] == pytest.approx(hits.mean())
    _, saved = final_state(config, tmp_path)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        saved.batch_stats,
        updates['batch_stats'],
    )


@pytest.mark.parametrize('after', [2, 5])
def test_a_run_interrupted_and_resumed_ends_in_the_same_bits(whole, tmp_path, after):
    config, workdir = whole
    signals = NoSignals()
    with pytest.raises(SystemExit) as stop:
        train(config, tmp_path, Interrupted(tiny_dataset(), signals, after), signals)
    assert stop.value.code == 130
    assert 0 < checkpoint.newest(tmp_path)[1] < 12
    train(config, tmp_path, tiny_dataset(), NoSignals())
    assert lines(tmp_path) == lines(workdir)
    step, state = final_state(config, tmp_path)
    expected_step, expected = final_state(config, workdir)
    assert step == expected_step == 12
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_in_bfloat16_the_kernels_of_the_computation_are_not_saved_and_follow_from_the_parameters(tmp_path):
    config, signals = tiny_config(dtype='bfloat16', num_epochs=1), NoSignals()
    train(config, tmp_path / 'whole', tiny_dataset(), signals)
    with pytest.raises(SystemExit):
        train(config, tmp_path / 'stopped', Interrupted(tiny_dataset(), signals, 2), signals)
    train(config, tmp_path / 'stopped', tiny_dataset(), NoSignals())
    assert lines(tmp_path / 'stopped') == lines(tmp_path / 'whole')
    (_, found), (_, expected) = (final_state(config, tmp_path / name) for name in ('stopped', 'whole'))
    saved = (tmp_path / 'stopped' / 'checkpoints' / '4' / 'checksums' / 'metadata').read_text()
    assert 'params' in saved and 'kernels' not in saved
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_finished_run_says_so_and_trains_no_further(whole, caplog):
    config, workdir = whole
    before = lines(workdir)
    with caplog.at_level('INFO', 'sreml_jax'):
        train(config, workdir, tiny_dataset(), NoSignals())
    assert 'trained to the end' in caplog.text
    assert lines(workdir) == before


def test_more_epochs_go_on_with_the_same_meta_classes(tmp_path, caplog):
    config = tiny_config(num_epochs=1)
    train(config, tmp_path, tiny_dataset(), NoSignals())
    table = checkpoint.newest(tmp_path)[0].meta_table(4)
    with caplog.at_level('INFO', 'sreml_jax'):
        train(tiny_config(num_epochs=2, seed=9), tmp_path, tiny_dataset(), NoSignals())
    assert 'num_epochs was 1' in caplog.text
    checkpoints, newest = checkpoint.newest(tmp_path)
    assert newest == 8
    np.testing.assert_array_equal(checkpoints.meta_table(8), table)


@pytest.mark.parametrize(
    ('fields', 'dataset', 'message'),
    [
        (
            {'model_type': 'resnet34', 'width': 8},
            {},
            "model_type is 'resnet18' there and 'resnet34' here, width",
        ),
        ({'pool': 'gem'}, {}, "pool is 'average' there and 'gem' here"),
        ({}, {'classes': 9}, 'trained on 8 classes, but tiny now has 9'),
        ({'batch_size': 64}, {}, 'batch_size=64 is larger than the 36 training images'),
        ({'meta_class_size': 9}, {}, '8 training classes, fewer than config.meta_class_size=9'),
        (
            {'meta_class_size': 2},
            {'classes': 1},
            'tiny has one training class, and training needs two or more',
        ),
    ],
)
def test_a_config_or_dataset_that_does_not_fit_is_refused(whole, fields, dataset, message):
    _, workdir = whole
    before = sorted(workdir.rglob('*'))
    with pytest.raises(UserError, match=message):
        train(tiny_config(**fields), workdir, tiny_dataset(**dataset), NoSignals())
    assert sorted(workdir.rglob('*')) == before


def test_as_many_but_other_classes_are_refused(whole):
    config, workdir = whole
    dataset, before = tiny_dataset(), sorted(workdir.rglob('*'))
    dataset.class_names['train'] = {i: f'bird {i}' if i > 2 else str(i) for i in reversed(range(8))}
    with pytest.raises(
        UserError, match="other classes than tiny now has: where it had '3' there is 'bird 3'"
    ):
        train(config, workdir, dataset, NoSignals())
    assert sorted(workdir.rglob('*')) == before


def test_a_workdir_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot be made'):
        train(tiny_config(), tmp_path / 'file' / 'run', tiny_dataset(), NoSignals())
