"""The whole program on small copies of the datasets, through the real entry point."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import annotations
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
SMALL = [
    '--config.image_size=16',
    '--config.stem=small',
    '--config.width=4',
    '--config.weights=none',
    '--config.ensemble_size=2',
    '--config.meta_class_size=4',
    '--config.batch_size=4',
    '--config.num_epochs=1',
    '--config.member_conv=grouped',
    '--config.recalls=1,2',
    '--config.compilation_cache=',
    '--config.gpu_ids=0',  # the test run has virtual devices
]


def command(folder: Path, *arguments: str) -> list[str]:
    """The program on small models, its data and results under `folder`."""
    places = [f'--workdir={folder / "run"}', f'--config.prepared_dir={folder / "prepared"}']
    return [sys.executable, '-m', 'sreml_jax.main', *places, *SMALL, *arguments]


def run(*arguments: str) -> subprocess.CompletedProcess:
    """Runs it to its end."""
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ('name', 'protocol'),
    [
        ('car', 'car, uncropped, self-retrieval: each of 16 images against the 15 others; 4 classes'),
        ('cub', 'cub, cropped, self-retrieval: each of 16 images against the 15 others; 4 classes'),
        ('sop', 'sop, uncropped, self-retrieval: each of 16 images against the 15 others; 4 classes'),
        ('isc', 'isc, uncropped, query/gallery: 8 queries against a gallery of 8 images; 4 classes'),
    ],
)
def test_a_benchmark_trains_an_epoch_and_prints_its_table(name, protocol, tmp_path):
    getattr(annotations, f'make_{name}')(tmp_path / 'data')
    crop = '--config.crop_type=' + ('cropped' if name == 'cub' else 'uncropped')
    config, data = f'--config=configs/{name}.py', f'--config.data_dir={tmp_path / "data"}'
    done = run(*command(tmp_path, config, data, crop))
    assert done.returncode == 0, done.stderr
    assert protocol in done.stdout
    recall = json.loads((tmp_path / 'run' / 'results.json').read_text())['recall']
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith('R@1 '))
    assert row[1] == f'{100 * recall["1"]:.2f}%'

    if name == 'cub':  # the run's own config is enough to repeat the table
        again = run(*command(tmp_path)[:4], '--mode=eval')
        assert again.returncode == 0, again.stderr
        table = done.stdout[done.stdout.index(protocol) : done.stdout.index(str(tmp_path / 'run'))]
        assert again.stdout.startswith(table) and 'from 1 member to 2: ' in again.stdout


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path):
    annotations.make_cub(tmp_path / 'data', per_class=8)
    arguments = command(
        tmp_path,
        '--config=configs/cub.py',
        f'--config.data_dir={tmp_path / "data"}',
        '--config.num_epochs=400',
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


def folder_of(path: Path) -> Path:
    """A folder of four training and four test classes, of which a test changes one thing."""
    for split in ('train', 'test'):
        for label in range(4):
            own = path / split / f'{split}{label}'
            own.mkdir(parents=True)
            for i in range(2):
                Image.new('RGB', (8, 8), (60 * label, 9, 99 * i)).save(own / f'{i}.png')
    return path


def spoil(path: Path) -> None:
    """Puts a text file among the pictures."""
    (path / 'train' / 'train0' / 'notes.jpg').write_text('no picture')


def empty_class(path: Path) -> None:
    """Makes a class without images."""
    (path / 'test' / 'nothing').mkdir()


@pytest.mark.parametrize(
    ('change', 'argument', 'message'),
    [
        (spoil, '', 'notes.jpg'),
        (empty_class, '', 'nothing'),
        (None, '--config.batch_size=9', 'batch_size=9 is larger than the 8 training images'),
        (None, '--config.meta_class_size=5', '4 training classes, fewer than config.meta_class_size=5'),
        (None, '--config.data_dir=/nowhere', '/nowhere'),
        (None, '--config.crop_type=cropped', 'crop'),
    ],
)
def test_data_that_no_run_could_use_is_refused_and_nothing_written(change, argument, message, tmp_path):
    data = folder_of(tmp_path / 'data')
    if change:
        change(data)
    done = run(
        *command(tmp_path, '--config=configs/folder.py', f'--config.data_dir={data}', *argument.split())
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith('error: ') and 'Traceback' not in done.stderr
    assert message in done.stderr
    assert not (tmp_path / 'run').exists()
