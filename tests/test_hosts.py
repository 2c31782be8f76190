"""Two processes as one run, over gloo: the results of one process, and an end when one of them dies."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import annotations
import pytest
from test_program import ROOT, command

from sreml_jax import hosts
from sreml_jax.errors import UserError

MESH = ['--config.mesh=2,2', '--config.ensemble_size=4', '--config.log_every=1']


def start(folder: Path, devices: int, *arguments: str) -> subprocess.Popen:
    """Starts one process with so many virtual devices."""
    environment = {**os.environ, 'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}'}
    data = f'--config.data_dir={folder / "data"}'
    small = [a for a in command(folder) if not a.startswith('--config.gpu_ids')]
    arguments = [*small, '--config=configs/cub.py', data, *MESH, *arguments]
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


def test_two_processes_equal_one(tmp_path):
    losses, recalls = [], []
    for name, begin in (('one', lambda *a: [start(a[0], 4, *a[1:])]), ('two', start_two)):
        folder = tmp_path / name
        annotations.make_cub(folder / 'data', per_class=8)
        ended = [(p.communicate(timeout=240), p.returncode) for p in begin(folder, '--config.num_epochs=2')]
        assert [code for _, code in ended] == [0] * len(ended), ended
        said = [output for (output, _), _ in ended]
        assert said[0].count('R@1') == 1 and said[1:] in ([], [''])  # tables are printed once
        assert (folder / 'run' / 'retrievals.png').stat().st_size > 10_000
        losses.append([(line['step'], line['loss']) for line in metrics(folder)])
        recalls.append(json.loads((folder / 'run' / 'results.json').read_text())['recall'])
    assert [step for step, _ in losses[0]] == list(range(1, 17))
    for (step, one), (other, two) in zip(*losses, strict=True):
        assert step == other and two == pytest.approx(one, rel=1e-4)
    assert recalls[0] == recalls[1]


def test_one_dies_and_the_other_ends_and_both_go_on(tmp_path):
    annotations.make_cub(tmp_path / 'data', per_class=8)
    processes = start_two(tmp_path, '--config.num_epochs=2000')
    wait_for(lambda: newest_step(tmp_path) >= 16, processes)
    processes[1].kill()
    # A collective that fails is told by us; where it only hangs, JAX's heartbeats end the process.
    _, errors = processes[0].communicate(timeout=2 * hosts.DEAD_SECONDS)
    processes[1].communicate()
    assert processes[0].returncode in (1, -signal.SIGABRT), errors
    assert 'another process of this run has died' in errors or 'another task died' in errors
    assert 'Traceback' not in errors and 'Current thread' not in errors
    epochs = newest_step(tmp_path) // 8 + 1
    ended = [
        (p.communicate(timeout=240), p.returncode)
        for p in start_two(tmp_path, f'--config.num_epochs={epochs}')
    ]
    assert [code for _, code in ended] == [0, 0], ended
    assert 'going on from step' in ended[0][0][1]
    assert [line['step'] for line in metrics(tmp_path)] == list(range(1, 8 * epochs + 1))


def test_half_of_the_flags_is_refused():
    with pytest.raises(UserError, match='go together'):
        hosts.connect('127.0.0.1:1', None, 0)


def test_sigterm_to_one_stops_both_after_the_same_step(tmp_path):
    annotations.make_cub(tmp_path / 'data', per_class=8)
    processes = start_two(tmp_path, '--config.num_epochs=2000')
    file = tmp_path / 'run' / 'metrics.jsonl'
    wait_for(lambda: file.exists() and len(metrics(tmp_path)) > 12, processes)
    processes[1].send_signal(signal.SIGTERM)
    ended = [(p.communicate(timeout=120), p.returncode) for p in processes]
    assert [code for _, code in ended] == [143, 143], ended
    assert metrics(tmp_path)[-1]['step'] == newest_step(tmp_path)
