"""launch/table.py with the real program, killed once and run again; test_table.py has more, by a stub."""

import fcntl
import json
import os
import re
import signal
import time
from pathlib import Path

from support import annotations
from support.runs import SMALL
from support.tables import run


def kill(lock: Path) -> None:
    """Kills the table and the run under way, which it names in its lock; returns when both are gone."""
    for process in re.findall(r'kill (\d+)', lock.read_text()):
        os.kill(int(process), signal.SIGKILL)
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def test_killed_and_run_again_to_the_table(tmp_path):
    annotations.make_isc(tmp_path / 'data', per_class=8)
    folder, data = tmp_path / 'table', f'--config.data_dir={tmp_path / "data"}'
    arguments = [f'--folder={folder}', '--datasets=isc', '--backbones=resnet18', data]
    arguments += [f'--config.prepared_dir={tmp_path / "prepared"}', *SMALL]
    arguments += ['--config.num_epochs=20', '--config.log_every=1']  # 160 steps
    workdir = folder / 'isc-uncropped-resnet18'

    first = run(*arguments)
    while not [path for path in workdir.glob('checkpoints/*') if path.name.isdigit()]:
        assert first.poll() is None
        time.sleep(0.02)
    kill(folder / 'lock')
    first.communicate(timeout=60)
    assert first.returncode == -signal.SIGKILL and not (workdir / 'results.json').exists()

    again = run(*arguments)
    output, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert 'going on from step ' in (folder / 'logs' / f'{workdir.name}.log').read_text()
    metrics = (workdir / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(line)['step'] for line in metrics] == list(range(1, 161))
    recall = json.loads((workdir / 'results.json').read_text())['recall']
    assert re.search(r'^\| Dataset +\| In-shop', output, re.M)
    printed = dict(re.findall(r'^\| R@(\d+) +\| ([\d.]+)% \(', output, re.M))
    assert printed == {k: f'{100 * recall[k]:.2f}' for k in ('1', '2')}
