"""When a run saves: by time alone, at its end, and without a step that waits for a save."""

import types

import pytest
from support.runs import NoSignals, StopAfter
from support.tiny import tiny_config, tiny_dataset

from sreml_jax import train
from sreml_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures('few_blocks')


@pytest.fixture
def saves(monkeypatch):
    """The steps that were saved, in a run whose every step takes a minute; each save is quick."""
    clock, steps, save = iter(range(1000)), [], Checkpoints.save

    def counted(checkpoints, state, *rest):
        if int(state.step) not in checkpoints.steps():
            steps.append(int(state.step))
        save(checkpoints, state, *rest)
        checkpoints.wait()

    monkeypatch.setattr(Checkpoints, 'save', counted)
    monkeypatch.setattr(train, 'time', types.SimpleNamespace(monotonic=lambda: 60.0 * next(clock)))
    return steps


@pytest.mark.parametrize(('minutes', 'expected'), [(100.0, [12]), (4.5, [5, 10, 12]), (0.0, [*range(1, 13)])])
def test_three_epochs_of_four_steps_save_by_time_and_at_the_end(minutes, expected, saves, tmp_path):
    # Noting the time of a save reads the clock too, and takes a minute of it.
    train.train(tiny_config(checkpoint_minutes=minutes), tmp_path, tiny_dataset(), NoSignals())
    assert saves == expected


def test_a_signal_saves_at_once(saves, tmp_path):
    with pytest.raises(SystemExit):
        train.train(tiny_config(checkpoint_minutes=100.0), tmp_path, tiny_dataset(), StopAfter(7))
    assert saves == [7]


def test_while_a_save_is_under_way_no_step_waits_for_it(saves, tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoints, 'saving', property(lambda _: saves == [1]))  # the first save hangs
    train.train(tiny_config(checkpoint_minutes=0.0), tmp_path, tiny_dataset(), NoSignals())
    assert saves == [1, 12]
