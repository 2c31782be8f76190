"""Whole runs on a tiny dataset: what they leave behind, and resuming exactly."""

import contextlib
import json
import signal

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import tiny_config, tiny_dataset

from sreml_jax import checkpoint
from sreml_jax.errors import UserError
from sreml_jax.evaluate import evaluate
from sreml_jax.run import Run
from sreml_jax.train import train


class NoSignals:
    """Signals that never come, or come after so many batches."""

    def __init__(self):
        self.received = 0

    def held(self):
        return contextlib.nullcontext()

    def leave(self, message):
        if self.received:
            raise SystemExit(128 + self.received)


class Interrupted:
    """A dataset that raises the signal when batch number `after` is asked for."""

    def __init__(self, dataset, signals, after):
        self._dataset, self._signals, self._after = dataset, signals, after

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    def train_batches(self, *args):
        for number, batch in enumerate(self._dataset.train_batches(*args)):
            if number == self._after:
                self._signals.received = signal.SIGINT
            yield batch


def lines(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def final_state(config, workdir):
    run = Run.of(config)
    checkpoints, newest = checkpoint.newest(workdir)
    return newest, jax.device_get(checkpoints.state(newest, run.abstract_state(run.adam(4))))


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


def test_the_table_is_the_same_each_time(whole, capsys):
    config, workdir = whole
    first = evaluate(config, workdir, tiny_dataset())
    printed = capsys.readouterr().out
    assert evaluate(config, workdir, tiny_dataset()) == first
    assert capsys.readouterr().out == printed
    row = next(line.split() for line in printed.splitlines() if line.startswith('R@1 '))
    assert row[1] == f'{100 * first.recall[1]:.2f}%'
    stored = json.loads((workdir / 'results.json').read_text())
    assert stored['recall'] == {str(k): v for k, v in first.recall.items()}
    assert (workdir / 'retrievals.png').stat().st_size > 10_000


def test_the_members_curve_ends_in_the_table(whole, capsys):
    config, workdir = whole
    recall = evaluate(config, workdir, tiny_dataset(), members_curve=True).recall[1]
    one, two = json.loads((workdir / 'results.json').read_text())['members_curve']
    assert (one['members'], one['subsets'], two['members'], two['subsets']) == (1, 2, 2, 1)
    assert two['mean'] == recall
    rise = f'from 1 member to 2: {100 * (recall - one["mean"]):+.2f} points'
    assert rise in capsys.readouterr().out
    with Image.open(workdir / 'members_curve.png') as picture:
        assert picture.size == (960, 600)


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
        ({}, {'classes': 9}, 'trained on 8 classes, but tiny now has 9'),
        ({'batch_size': 64}, {}, 'batch_size=64 is larger than the 36 training images'),
        ({'meta_class_size': 9}, {}, '8 training classes, fewer than config.meta_class_size=9'),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_run_alone(whole, fields, dataset, message):
    _, workdir = whole
    before = sorted(workdir.rglob('*'))
    with pytest.raises(UserError, match=message):
        train(tiny_config(**fields), workdir, tiny_dataset(**dataset), NoSignals())
    assert sorted(workdir.rglob('*')) == before


def test_a_workdir_that_can_not_be_made_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='can not be made'):
        train(tiny_config(), tmp_path / 'file' / 'run', tiny_dataset(), NoSignals())


def test_evaluating_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match='holds no checkpoint'):
        evaluate(tiny_config(), tmp_path, tiny_dataset())
    assert not list(tmp_path.iterdir())
