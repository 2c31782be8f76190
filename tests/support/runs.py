"""Whole runs on tiny data: signals, what a run leaves behind, and the program's command line."""

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import jax
from PIL import Image

from sreml_jax.run import Run
from sreml_jax.training import checkpoint, optimizer, step
from support.paths import ROOT

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


def program(*arguments: str) -> subprocess.CompletedProcess:
    """Runs the program with these arguments to its end."""
    return run(sys.executable, '-m', 'sreml_jax.main', *arguments)


def folder_of(path: Path) -> Path:
    """A folder of four training and four test classes, of which a test changes one thing."""
    for split in ('train', 'test'):
        for label in range(4):
            own = path / split / f'{split}{label}'
            own.mkdir(parents=True)
            for i in range(2):
                Image.new('RGB', (8, 8), (60 * label, 9, 99 * i)).save(own / f'{i}.png')
    return path


class NoSignals:
    """Signals that never come, or come after so many batches."""

    def __init__(self):
        self.received = 0

    def held(self):
        return contextlib.nullcontext()

    def ending_at_once(self):
        return contextlib.nullcontext()

    def leave(self, message):
        if self.received:
            raise SystemExit(128 + self.received)


class StopAfter(NoSignals):
    """A signal that comes in step number `steps`."""

    def __init__(self, steps):
        self._left = steps

    @property
    def received(self):
        self._left -= 1
        return 0 if self._left > 0 else signal.SIGINT

    @received.setter
    def received(self, _):
        pass


class Interrupted:
    """A dataset that raises the signal when batch number `after` is asked for."""

    def __init__(self, dataset, signals, after):
        self._dataset, self._signals, self._after = dataset, signals, after

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    def train_batches(self, *args):
        for number, batch in enumerate(self._dataset.train_batches(*args)):
            if number == self._after:
                self._signals.received = signal.SIGINT
            yield batch


def lines(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def adam_of(run, steps_per_epoch=4):
    """The optimizer of a run's config."""
    return optimizer.adam(optimizer.schedule(run.config, steps_per_epoch))


def abstract_state(run):
    """Shapes, dtypes and shardings of a run's training state."""
    return step.abstract_state(run.model, adam_of(run), run.mesh)


def final_state(config, workdir):
    run = Run.of(config)
    checkpoints, newest = checkpoint.newest(workdir)
    return newest, jax.device_get(checkpoints.state(newest, abstract_state(run)))
