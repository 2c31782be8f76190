"""The whole program on small copies of the datasets, through the real entry point."""

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from support import annotations, forked
from support.checkpoints import PROGRESS, TABLE, mesh_of, state_at
from support.paths import ROOT
from support.runs import command, folder_of, run
from support.tiny import tiny_config

from sreml_jax.training.checkpoint import Checkpoints

PROTOCOLS = {
    'car': 'car, uncropped, self-retrieval: each of 16 images against the 15 others; 4 classes',
    'cub': 'cub, cropped, self-retrieval: each of 16 images against the 15 others; 4 classes',
    'sop': 'sop, uncropped, self-retrieval: each of 16 images against the 15 others; 4 classes',
    'isc': 'isc, uncropped, query/gallery: 8 queries against a gallery of 8 images; 4 classes',
}


def benchmark(name: str, folder: Path) -> list[str]:
    """Makes a small copy of the dataset; returns the command that trains an epoch on it."""
    getattr(annotations, f'make_{name}')(folder / 'data')
    crop = '--config.crop_type=' + ('cropped' if name == 'cub' else 'uncropped')
    return command(folder, f'--config=configs/{name}.py', f'--config.data_dir={folder / "data"}', crop)


def assert_table(name: str, folder: Path, output: str) -> None:
    assert PROTOCOLS[name] in output
    recall = json.loads((folder / 'run' / 'results.json').read_text())['recall']
    row = next(line.split() for line in output.splitlines() if line.startswith('R@1 '))
    assert row[1] == f'{100 * recall["1"]:.2f}%'


def test_a_benchmark_trains_an_epoch_and_prints_its_table(tmp_path):
    names = ('car', 'sop', 'isc')
    jobs = [{'argv': benchmark(name, tmp_path / name)[3:]} for name in names]
    for name, (code, output, errors) in zip(names, forked.run(ROOT, jobs), strict=True):
        assert code == 0, errors
        assert_table(name, tmp_path / name, output)


def test_compiled_as_users_do_the_runs_own_config_repeats_the_table(tmp_path, monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', '--xla_force_host_platform_device_count=8')
    done = run(*benchmark('cub', tmp_path))
    assert done.returncode == 0, done.stderr
    assert_table('cub', tmp_path, done.stdout)
    again = run(*command(tmp_path)[:4], '--mode=eval')
    assert again.returncode == 0, again.stderr
    table = done.stdout[done.stdout.index(PROTOCOLS['cub']) : done.stdout.index('Wrote ')]
    assert again.stdout.startswith(table) and 'from 1 member to 2: ' in again.stdout


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path):
    annotations.make_cub(tmp_path / 'data', per_class=8)
    arguments = command(
        tmp_path,
        '--config=configs/cub.py',
        f'--config.data_dir={tmp_path / "data"}',
        '--config.num_epochs=400',
        '--config.schedule=constant',  # the same program whatever the number of epochs
        '--config.log_every=1',
    )
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / 'run' / 'metrics.jsonl'
    for _ in range(1200):
        if metrics.exists() and metrics.read_text().count('\n') >= 20:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert 'the same command goes on from there' in errors
    assert 'R@1' not in output
    stopped = json.loads(metrics.read_text().splitlines()[-1])['step']

    done = run(*[a.replace('num_epochs=400', f'num_epochs={stopped // 8 + 1}') for a in arguments])
    assert done.returncode == 0, done.stderr
    assert f'going on from step {stopped}' in done.stderr
    assert 'R@1' in done.stdout
    steps = [json.loads(line)['step'] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 8 * (stopped // 8 + 1) + 1))


def spoil(number: int) -> Callable[[Path], None]:
    """Puts text files among the pictures."""

    def change(path: Path) -> None:
        for i in range(number):
            (path / 'train' / 'train0' / f'notes{i:02}.jpg').write_text('no picture')

    return change


def empty_class(path: Path) -> None:
    """Makes a class without images."""
    (path / 'test' / 'nothing').mkdir()


def nothing(path: Path) -> None:
    """Empties the folder."""
    shutil.rmtree(path)
    path.mkdir()


def checkpoint_of(**fields: object) -> Callable[[Path], None]:
    """Puts a checkpoint into the workdir whose config has these fields."""

    def change(path: Path) -> None:
        checkpoints = Checkpoints(path.parent / 'run')
        config = tiny_config(**{'data_name': 'folder'} | fields)
        checkpoints.save(state_at(3, mesh_of(1)), TABLE, config, PROGRESS)
        checkpoints.close()

    return change


# What is wrong with the folder, an argument more, the sentence, and whether it is reported before the dataset
# is prepared.
MISTAKES = [
    (spoil(1), '', '1 unreadable images in .*notes00.jpg', False),
    (spoil(23), '', r'23 unreadable images in \S+ \((\S+notes\d\d.jpg: [^;]*; ){20}and 3 more\)', False),
    (empty_class, '', 'the class folder .*nothing has no images', True),
    (nothing, '', 'the folder .*data is empty', True),
    (None, '--config.data_dir=/nowhere', 'there is no folder /nowhere', True),
    (None, '--config.crop_type=cropped', 'crop', False),
    (None, '--config.batch_size=9', 'batch_size=9 is larger than the 8 training images', False),
    (None, '--config.meta_class_size=5', '4 training classes, fewer than config.meta_class_size=5', False),
    (None, '--config.gpu_ids=0,1,2', 'ensemble_size=2 cannot be shared evenly by 3 devices', True),
    (None, '--config.gpu_ids=0,99', 'this machine has devices 0,1,2', True),
    (None, '--config.gpu_ids=0,1,2 --config.mesh=3,1', 'batch_size=4 cannot be shared evenly by 3', True),
    (checkpoint_of(ensemble_size=3), '', 'run holds .*: ensemble_size is 3 there and 2 here; take', True),
    (checkpoint_of(meta_class_size=3), '', 'run holds .*: meta_class_size is 3 there and 4 here; take', True),
    (checkpoint_of(data_name='cub'), '', "run holds .*: data_name is 'cub' there and 'folder' here; ", True),
    (None, '--mode=eval', 'run holds no checkpoint', True),
    (checkpoint_of(width=8), '--mode=eval', 'run holds .*: width is 8 there and 4 here; take', True),
]


def test_what_no_run_could_use_is_refused_and_nothing_written(tmp_path):
    jobs, before = [], []
    for i, (change, argument, *_) in enumerate(MISTAKES):
        folder = tmp_path / str(i)
        data = folder_of(folder / 'data')
        if change:
            change(data)
        arguments = ['--config=configs/folder.py', f'--config.data_dir={data}', *argument.split()]
        argv = command(folder, *arguments)[3:]
        if 'gpu_ids' in argument:  # the flag again would add to it
            argv.remove('--config.gpu_ids=0')
        jobs.append({'argv': argv})
        before.append(sorted(folder.rglob('*')))
    for i, (code, output, errors) in enumerate(forked.run(ROOT, jobs)):
        _, argument, message, early = MISTAKES[i]
        assert (code, output) == (2, ''), (argument, message, errors)
        last = errors.splitlines()[-1]
        assert re.match(f'error: .*{message}', last) and 'Traceback' not in errors, (message, errors)
        after = sorted(p for p in (tmp_path / str(i)).rglob('*') if early or 'prepared' not in p.parts)
        assert after == before[i], message
