"""The entry point as a user meets it: one clear sentence and exit code 2 for every mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Runs the program with these arguments."""
    command = [sys.executable, '-m', 'sreml_jax.main', *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def refused(*arguments: str) -> str:
    """Runs the program, which must refuse; returns its sentence."""
    done = run(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ''
    assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--config.bath_size=3'], "config has no field 'bath_size' (did you mean batch_size"),
        (['--config.batch_size=many'], 'many'),
        (['--config.model_type=resnet19'], 'choose one of resnet18, resnet34, resnet50, resnext50_32x4d'),
        (['--config=configs/cup.py'], 'configs/cub.py'),
        (['--mode=trian'], 'flag --mode=trian: value should be one of <train|eval|embed|'),
        (['--wrokdir=x'], "Unknown command line flag 'wrokdir'. Did you mean: workdir"),
        (['train'], "'train' is no option"),
        (['--workdir=/dev/null/run'], '/dev/null is not a folder'),
        (['--mode=eval', '--workdir=/proc'], 'holds no checkpoint'),
        (['--config.gpu_ids=0,99'], 'this machine has devices 0'),
    ],
)
def test_a_mistake_on_the_command_line(arguments, message, tmp_path):
    if not any(a.startswith(('--workdir', '--wrokdir')) for a in arguments):
        arguments = [*arguments, f'--workdir={tmp_path / "run"}']
    assert message in refused(*arguments)
    assert not list(tmp_path.iterdir())


def test_describe_prints_the_seeds_count_and_needs_no_tensorflow():
    done = run('--config.model_type=resnet50', '--config=configs/cub.py', '--mode=describe')  # in any order
    assert done.returncode == 0, done.stderr
    assert '1,118,974,592' in done.stdout
    assert done.stderr == ''
