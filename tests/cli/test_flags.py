"""The entry point as a user meets it: one clear sentence and exit code 2 for every mistake."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support import forked
from support.paths import ROOT

import sreml_jax
from sreml_jax.cli import flags
from sreml_jax.cli.flags import MODES


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """Runs the program with these arguments, and with these more variables of the environment."""
    command = [sys.executable, '-m', 'sreml_jax.main', *arguments]
    environment = os.environ | {'PYTHONPATH': str(ROOT)} | environment
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def refused(*arguments: str, cwd: Path = ROOT, **environment: str) -> str:
    """Runs the program, which must refuse; returns its sentence."""
    done = run(*arguments, cwd=cwd, **environment)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ''
    assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1, done.stderr
    return done.stderr


MISTAKES = [
    (['--config.bath_size=3'], "config has no field 'bath_size' (did you mean batch_size"),
    (['--config.batch_size=many'], 'error: --config.batch_size=many is not a whole number\n'),
    (['--config.learning_rate=1e-'], 'error: --config.learning_rate=1e- is not a number\n'),
    (['--config.remat=maybe'], 'error: --config.remat=maybe is not true or false\n'),
    (['--config.model_type=resnet19'], 'choose one of resnet18, resnet34, resnet50, resnext50_32x4d'),
    (['--config=configs/cup.py'], 'configs/cub.py'),
    (['--mode=trian'], 'flag --mode=trian: value should be one of <train|eval|embed|'),
    (['--wrokdir=x'], "Unknown command line flag 'wrokdir'. Did you mean: workdir"),
    (['train'], "'train' is no option"),
    (['--workdir=/dev/null/run'], '/dev/null is not a folder'),
    (['--mode=eval', '--workdir=/proc'], 'holds no checkpoint'),
    (['--config.gpu_ids=0,99'], 'this machine has devices 0'),
]


def test_a_mistake_on_the_command_line(tmp_path):
    jobs = []
    for arguments, _ in MISTAKES:
        if not any(a.startswith(('--workdir', '--wrokdir')) for a in arguments):
            arguments = [*arguments, f'--workdir={tmp_path / "run"}']
        # Prepared data would lie under HOME.
        jobs.append({'argv': arguments, 'environment': {'HOME': str(tmp_path)}, 'light': True})
    for (arguments, message), (code, output, errors) in zip(MISTAKES, forked.run(ROOT, jobs), strict=True):
        assert (code, output) == (2, ''), (arguments, errors)
        assert errors.startswith('error: ') and errors.count('\n') == 1, (arguments, errors)
        assert message in errors, arguments
    assert not list(tmp_path.iterdir())


@pytest.fixture
def no_tensorflow(tmp_path):
    """Where Python looks for modules, with a tensorflow in front that none may import."""
    (tmp_path / 'tensorflow.py').write_text('raise RuntimeError("imported")')
    return {'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'}


def test_describe_prints_the_seeds_count_and_needs_no_tensorflow(no_tensorflow):
    fields = '--config.model_type=resnet50', '--config=configs/cub.py'  # in any order
    done = run(*fields, '--mode=describe', **no_tensorflow)
    assert done.returncode == 0, done.stderr
    assert '1,118,974,592' in done.stdout
    assert ' CPU(s), float32 computation:' in done.stdout
    assert done.stderr == ''


def test_version_and_help(no_tensorflow):
    done = run('--version')
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith(f'sreml_jax {sreml_jax.__version__} (python 3.')
    assert ', jax 0.' in done.stdout

    done = run('--mode=embed', '--help', **no_tensorflow)
    assert (done.returncode, done.stderr) == (0, '')
    modes, options = done.stdout.split('options of every mode')
    assert re.findall(r'^  ([a-z]+) ', modes, re.M) == list(MODES)
    wanted = {flag for mode in MODES.values() for flag in (*mode.needs, *mode.takes)}
    assert wanted | {'config', 'coordinator', 'version'} <= set(re.findall(r'^  --([a-z]+)', options, re.M))
    assert max(map(len, done.stdout.splitlines())) <= 110


def test_elsewhere_the_packaged_configs_are_found_and_ones_own_come_first(tmp_path):
    refused = run('--config=configs/cub.py', '--mode=describe', '--config.model_type=resnet19', cwd=tmp_path)
    assert 'choose one of resnet18' in refused.stderr  # it was read
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs' / 'cub.py').write_text('raise ValueError("my own")')
    assert 'my own' in run('--config=configs/cub.py', '--mode=describe', cwd=tmp_path).stderr


def test_a_config_may_import_the_default_of_a_checkout_and_elsewhere_hears_the_new_name(tmp_path):
    mine = tmp_path / 'mine.py'
    mine.write_text('from configs import default\n\ndef get_config():\n    return default.get_config()\n')
    describe = '--mode=describe', f'--config={mine}', '--config.model_type=resnet34'
    assert 'resnet34, width 64' in run(*describe).stdout
    absent = tmp_path / 'absent'  # even where a checkout is installed beside the tests
    absent.mkdir()
    (absent / 'configs.py').write_text('raise ModuleNotFoundError(name="configs")')
    assert refused(*describe, cwd=tmp_path, PYTHONPATH=f'{absent}{os.pathsep}{ROOT}') == (
        f'error: {mine} imports configs, which is only found in a checkout; write '
        '"from sreml_jax.configs import default"\n'
    )


def test_a_reader_of_help_may_leave_early():
    program = shlex.join([sys.executable, '-m', 'sreml_jax.main', '--help'])
    script = f'set -o pipefail; for i in 1 2 3; do {program} | (read line; exit 0) || exit 1; done'
    done = subprocess.run(['bash', '-c', script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')


def test_the_value_of_a_flag_is_no_flag(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['sreml', '--workdir', 'config', '--out', 'x'])
    assert not flags.given('config') and flags.given('out')
    done = run('--mode', 'describe', '--config.ensemble_size=8', '--workdir', 'config.npz', cwd=tmp_path)
    assert done.returncode == 0 and 'parameters' in done.stdout, done.stderr


def test_a_reader_of_results_may_leave_early(tmp_path):
    program = (
        'from sreml_jax.cli import output; output.outlive_readers(); [print("x" * 9999) for _ in range(99)]'
    )
    program += f'; open({str(tmp_path / "done")!r}, "w").close()'
    script = (
        f"set -o pipefail; {sys.executable} -c '{program.replace(chr(39), chr(34))}' | (read line; exit 0)"
    )
    done = subprocess.run(['bash', '-c', script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')
    assert (tmp_path / 'done').exists()  # the work was ended
