"""Two processes as one run, over gloo: the results of one process, and an end when one of them dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from support.paths import ROOT
from support.runs import NoSignals, command
from support.tiny import tiny_config

from sreml_jax import data
from sreml_jax.data.dataset import Dataset
from sreml_jax.embedder import Embedder
from sreml_jax.evaluate import evaluate
from sreml_jax.model import resnet
from sreml_jax.runtime import hosts
from sreml_jax.runtime.errors import UserError
from sreml_jax.train import train

BLOCKS = (1, 1, 1, 1)
DEAD_SECONDS = 20

# The program with fewer blocks, which compile in less time, and quicker to call another process dead.
PROGRAM = f"""
from sreml_jax import main
from sreml_jax.model import resnet
from sreml_jax.runtime import hosts
hosts.DEAD_SECONDS = {DEAD_SECONDS}
resnet.BACKBONES['resnet18'] = resnet.BACKBONES['resnet18']._replace(blocks={BLOCKS})
main.cli()
"""


@pytest.fixture(autouse=True)
def few_blocks(monkeypatch):
    """This process has the same."""
    monkeypatch.setitem(resnet.BACKBONES, 'resnet18', resnet.BACKBONES['resnet18']._replace(blocks=BLOCKS))


def start_two(folder: Path, *arguments: str) -> list[subprocess.Popen]:
    """Starts two processes of two devices each, as one run."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    devices = '--xla_force_host_platform_device_count'  # the last one counts
    environment = {**os.environ, 'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {devices}=2'}
    small = [a for a in command(folder)[3:] if not a.startswith('--config.gpu_ids')]
    wanted = [
        '--config=configs/folder.py',
        f'--config.data_dir={folder / "data"}',
        '--config.ensemble_size=4',
        '--config.pool=average',
        '--config.embedding=logits',
        '--config.label_smoothing=0.0',
        '--config.log_every=1',
        f'--coordinator=127.0.0.1:{port}',
        '--processes=2',
    ]
    pipe = subprocess.PIPE
    return [
        subprocess.Popen(
            [sys.executable, '-c', PROGRAM, *small, *wanted, f'--process={i}', *arguments],
            cwd=ROOT,
            env=environment,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        for i in range(2)
    ]


def alone(folder: Path, **fields: object) -> tuple[ConfigDict, Dataset]:
    """What this process, on four of its devices, does the same by."""
    config = tiny_config(
        data_name='folder',
        data_dir=str(folder / 'data'),
        prepared_dir=str(folder / 'prepared'),
        mirrored=True,  # as configs/folder.py
        gpu_ids=(0, 1, 2, 3),
        ensemble_size=4,
        batch_size=4,
        eval_batch_size=12,
        recalls=(1, 2),
        learning_rate=1e-4,
        weights='none',
    )
    config.update(fields)
    return config, data.load(config)


def wait_for(condition: Callable[[], bool], processes: list[subprocess.Popen]) -> None:
    """Returns when `condition` holds, or a process has ended, or after two minutes."""
    for _ in range(1200):
        if condition() or any(p.poll() is not None for p in processes):
            return
        time.sleep(0.1)


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint, or 0."""
    saved = folder / 'run' / 'checkpoints'
    return max((int(p.name) for p in saved.glob('[0-9]*') if p.name.isdigit()), default=0)


def metrics(folder: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / 'run' / 'metrics.jsonl').read_text().splitlines()]


def noise(folder: Path) -> Path:
    """Makes four training and four test classes of random pictures, which no model tells apart."""
    random = np.random.default_rng(0)
    for label in range(8):
        own = folder / 'data' / ('train' if label < 4 else 'test') / str(label)
        own.mkdir(parents=True)
        for i in range(8):
            Image.fromarray(random.integers(0, 255, (16, 16, 3), np.uint8)).save(own / f'{i}.png')
    return folder


def ends(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Waits for the processes; returns the exit code, the output and the errors of each."""
    said = [p.communicate(timeout=300) for p in processes]
    return [(p.returncode, *both) for p, both in zip(processes, said, strict=True)]


def test_two_processes_equal_one(tmp_path):
    """Each holds half of the members: nobody can read all of a state without the other."""
    one, two = noise(tmp_path / 'one'), noise(tmp_path / 'two')
    config, dataset = alone(one, num_epochs=2, embedding_dim=3)
    same = '--config.num_epochs=2', '--config.embedding_dim=3', '--config.eval_batch_size=12'
    train(config, one / 'run', dataset, NoSignals())
    for mode in ('train', 'eval'):
        evaluate(config, one / 'run', dataset, thorough=mode == 'eval')
        ended = ends(start_two(two, *same, f'--mode={mode}'))
        assert [code for code, *_ in ended] == [0, 0], ended
        assert [output.count('R@1') for _, output, _ in ended] == [1, 0]  # printed once
        assert ended[1][2] == ''
        results = [json.loads((folder / 'run' / 'results.json').read_text()) for folder in (one, two)]
        thresholds = [jax.tree.leaves(result.pop('thresholds', {})) for result in results]  # of similarities
        assert thresholds[0] == pytest.approx(thresholds[1], rel=1e-5)
        assert results[0] == results[1] and 0 < results[0]['recall']['1'] < 1
    assert len(results[1]['members_curve']) > 1
    assert (two / 'run' / 'retrievals.png').stat().st_size > 5_000

    losses = [[(line['step'], line['loss']) for line in metrics(folder)] for folder in (one, two)]
    assert [step for step, _ in losses[0]] == list(range(1, 17))
    for (step, alike), (other, loss) in zip(*losses, strict=True):
        assert step == other and loss == pytest.approx(alike, rel=1e-5)
    # By this hash all that is made of a checkpoint is known to belong to it, on however many hosts.
    with np.load(two / 'run' / 'shrinking_mirrored.npz') as file:
        assert file['fingerprint'] == Embedder(two / 'run', config).about['checkpoint']['fingerprint']


def test_stopped_killed_and_resumed(tmp_path, caplog):
    """SIGTERM to one stops both after the same step; the death of one ends the other; one host goes on."""
    file = noise(tmp_path) / 'run' / 'metrics.jsonl'
    arguments = (
        '--config.num_epochs=2000',
        '--config.schedule=constant',
        '--config.checkpoint_minutes=0',
        '--config.mesh=2,2',
    )  # each has half of every batch
    processes = start_two(tmp_path, *arguments)
    wait_for(lambda: file.exists() and len(metrics(tmp_path)) > 12, processes)
    processes[1].send_signal(signal.SIGTERM)
    ended = ends(processes)
    assert [code for code, *_ in ended] == [143, 143], ended
    stopped = newest_step(tmp_path)
    assert metrics(tmp_path)[-1]['step'] == stopped

    processes = start_two(tmp_path, *arguments)
    wait_for(lambda: newest_step(tmp_path) > stopped, processes)
    processes[1].kill()
    begin = time.monotonic()
    # A collective that fails is reported by us; if it only hangs, JAX's heartbeats end the process.
    (code, _, errors), (_, _, others) = ends(processes)
    assert time.monotonic() - begin < 3 * DEAD_SECONDS
    assert code in (1, -signal.SIGABRT), errors
    assert 'another process of this run has died' in errors or 'another task died' in errors
    assert 'Traceback' not in errors and 'Current thread' not in errors
    assert f'going on from step {stopped}' in errors and 'going on' not in others

    killed = newest_step(tmp_path)
    config, dataset = alone(tmp_path, num_epochs=killed // 8 + 1, mesh=(2, 2), schedule='constant')
    with caplog.at_level('INFO', 'sreml_jax'):
        train(config, tmp_path / 'run', dataset, NoSignals())
    assert f'going on from step {killed}' in caplog.text
    assert [line['step'] for line in metrics(tmp_path)] == list(range(1, 8 * config.num_epochs + 1))


def test_half_of_the_flags_is_refused():
    with pytest.raises(UserError, match='go together'):
        hosts.connect('127.0.0.1:1', None, 0)
