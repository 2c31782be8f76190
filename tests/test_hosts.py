"""Two processes as one run, over gloo: the results of one process, and an end when one of them dies."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_program import ROOT, command

from sreml_jax import hosts
from sreml_jax.errors import UserError

MESH = ['--config.mesh=2,2', '--config.ensemble_size=4', '--config.log_every=1']


def start(folder: Path, devices: int, *arguments: str) -> subprocess.Popen:
    """Starts one process with so many virtual devices."""
    environment = {**os.environ, 'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}'}
    data = f'--config.data_dir={folder / "data"}'
    small = [a for a in command(folder) if not a.startswith('--config.gpu_ids')]
    arguments = [*small, '--config=configs/folder.py', data, *MESH, *arguments]
    return subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def start_two(folder: Path, *arguments: str) -> list[subprocess.Popen]:
    """Starts two processes of two devices each, as one run."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    shared = [f'--coordinator=127.0.0.1:{port}', '--processes=2', *arguments]
    return [start(folder, 2, *shared, f'--process={i}') for i in range(2)]


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
    losses, results = [], []
    for name, begin in (('one', lambda *a: [start(a[0], 4, *a[1:])]), ('two', start_two)):
        folder = noise(tmp_path / name)
        ended = ends(begin(folder, '--config.num_epochs=2'))
        assert {code for code, *_ in ended} == {0}, ended
        assert [output.count('R@1') for _, output, _ in ended] == [1, 0][: len(ended)]  # told once
        assert (folder / 'run' / 'retrievals.png').stat().st_size > 5_000
        losses.append([(line['step'], line['loss']) for line in metrics(folder)])
        results.append(json.loads((folder / 'run' / 'results.json').read_text()))
    assert [step for step, _ in losses[0]] == list(range(1, 17))
    for (step, one), (other, two) in zip(*losses, strict=True):
        assert step == other and two == pytest.approx(one, rel=1e-5)
    assert results[0] == results[1] and 0 < results[0]['recall']['1'] < 1


def test_stopped_killed_and_resumed(tmp_path):
    """SIGTERM to one stops both after the same step; the death of one ends the other; one host goes on."""
    file = noise(tmp_path) / 'run' / 'metrics.jsonl'
    processes = start_two(tmp_path, '--config.num_epochs=2000')
    wait_for(lambda: file.exists() and len(metrics(tmp_path)) > 12, processes)
    processes[1].send_signal(signal.SIGTERM)
    ended = ends(processes)
    assert [code for code, *_ in ended] == [143, 143], ended
    stopped = newest_step(tmp_path)
    assert metrics(tmp_path)[-1]['step'] == stopped

    processes = start_two(tmp_path, '--config.num_epochs=2000')
    wait_for(lambda: newest_step(tmp_path) > stopped, processes)
    processes[1].kill()
    begin = time.monotonic()
    # A collective that fails is told by us; where it only hangs, JAX's heartbeats end the process.
    code, _, errors = ends(processes)[0]
    assert time.monotonic() - begin < 2 * hosts.DEAD_SECONDS
    assert code in (1, -signal.SIGABRT), errors
    assert 'another process of this run has died' in errors or 'another task died' in errors
    assert 'Traceback' not in errors and 'Current thread' not in errors

    epochs = newest_step(tmp_path) // 8 + 1
    code, output, errors = ends([start(tmp_path, 4, f'--config.num_epochs={epochs}')])[0]
    assert code == 0, errors
    assert 'going on from step' in errors and 'R@1' in output
    assert [line['step'] for line in metrics(tmp_path)] == list(range(1, 8 * epochs + 1))


def test_half_of_the_flags_is_refused():
    with pytest.raises(UserError, match='go together'):
        hosts.connect('127.0.0.1:1', None, 0)
