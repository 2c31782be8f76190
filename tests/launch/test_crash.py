"""The crash test's short form, see launch/bench/crash_test.py, and what makes it fail."""

import subprocess
import sys

import crash_start
import pytest
from support.paths import ROOT


def test_a_run_killed_five_times_ends_in_the_bits_of_one_never_killed():
    done = subprocess.run(
        [sys.executable, 'launch/bench/crash_test.py', '--kills=1'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *kills, verdict = done.stdout.splitlines()
    moments = [line.split(':')[0].split(' in ')[1] for line in kills]
    assert moments == [
        'the preparation',
        'the training',
        'the last quarter',
        'the last save',
        'the evaluation',
    ]
    went_on = [int(line.split(' step ')[1].split(',')[0]) for line in kills]
    left = [int(line.split()[-1]) for line in kills]
    assert went_on == [0, *left[:-1]] and left == sorted(left) and left[1] > 0
    assert left[-1] > left[-2]  # the kill in the last save came before it was in place
    assert verdict.startswith('5 kills') and 'bit for bit those of a run never killed' in verdict


@pytest.fixture
def start(tmp_path):
    """A start that found the checkpoint of step 12, as it has ended."""
    start = object.__new__(crash_start.Start)
    start._place, start._run, start.saved_before = tmp_path, tmp_path / 'run', 12
    (tmp_path / 'steps').write_text('13\n14\n')
    (tmp_path / 'errors').write_text('going on from step 12\n')
    return start


def test_a_start_that_goes_on_has_no_fault(start):
    assert start.faults() == []


@pytest.mark.parametrize('steps', ['1\n2\n', '12\n13\n', '14\n15\n', '13\n13\n'])
def test_a_start_that_trains_other_steps_than_those_after_the_checkpoint_is_at_fault(start, steps, tmp_path):
    (tmp_path / 'steps').write_text(steps)
    [fault] = start.faults()
    first = steps.split()[0]
    assert fault.startswith(f'trained the steps [{first}') and fault.endswith('the checkpoint of step 12')


def test_a_start_that_says_another_step_is_at_fault(start, tmp_path):
    (tmp_path / 'errors').write_text('going on from step 1\n')
    assert start.faults() == ['did not say that it goes on from step 12']


def test_a_checkpoint_set_aside_is_a_fault(start, tmp_path):
    (tmp_path / 'run' / 'checkpoints_damaged' / '12').mkdir(parents=True)
    assert start.faults() == ['set a checkpoint aside']
