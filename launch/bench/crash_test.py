"""Kills a run again and again, and compares its end with that of a run never killed, bit for bit.

python launch/bench/crash_test.py                     20 kills
python launch/bench/crash_test.py --kills 5 --seed 1  other moments

Trains a tiny ensemble on generated pictures, on the CPU, in a temporary folder. Kills are SIGKILL, at seeded
random moments: about one in four before the first step of a start, the others soon after some step, while
checkpoints are being saved. The last line says what was compared; exit code 1 if anything differs.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
STEPS_PER_KILL = 24  # so many that the run is not at its end before the last kill
PATIENCE = 600  # seconds without a new step before a start is given up
FIELDS = {
    'image_size': 16,
    'stem': 'small',
    'width': 4,
    'ensemble_size': 1,
    'meta_class_size': 4,
    'member_conv': 'grouped',
    'batch_size': 8,
    'learning_rate': 1e-3,
    'recalls': '1',
    'log_every': 1,
    'checkpoint_minutes': 0.005,
    'weights': 'none',
}


def main() -> None:
    """Runs the killed run and the whole one, and compares them."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--kills', type=int, default=20)
    p.add_argument('--seed', type=int, default=0, help='of the moments')
    args = p.parse_args()
    os.environ['JAX_PLATFORMS'] = 'cpu'
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps_per_epoch = make_pictures(folder / 'data') // FIELDS['batch_size']
        epochs = -(-STEPS_PER_KILL * args.kills // steps_per_epoch)
        whole = Start(folder, 'whole', epochs)
        startup = whole.wait_for_step(1)
        whole.wait()
        early = kill_repeatedly(folder, epochs, args.kills, startup, random.Random(args.seed))
        different = differences(folder / 'whole', folder / 'killed', epochs * steps_per_epoch)
        aside = len(list((folder / 'killed').glob('checkpoints_damaged/*')))
    told = f'{args.kills} kills ({early} before the first step of a start), {epochs * steps_per_epoch} steps'
    if aside:
        told += f', {aside} checkpoints set aside'
    if different:
        print(f'{told}: DIFFERENT from a run never killed: {", ".join(different)}')
        sys.exit(1)
    print(
        f'{told}: parameters, statistics, optimizer state, meta classes and metrics.jsonl are bit for bit '
        'those of a run never killed'
    )


class Start:
    """One start of the program on the run `name`."""

    def __init__(self, folder: Path, name: str, epochs: int):
        places = {'data_dir': folder / 'data', 'prepared_dir': folder, 'compilation_cache': folder / 'xla'}
        fields = FIELDS | places | {'num_epochs': epochs}
        self._metrics = folder / name / 'metrics.jsonl'
        self._errors = (folder / f'{name}.log').open('w+')
        self._process = subprocess.Popen(
            [
                *(sys.executable, '-m', 'sreml_jax.main'),
                *('--config=configs/folder.py', f'--workdir={folder / name}'),
                *(f'--config.{field}={value}' for field, value in fields.items()),
            ],
            cwd=ROOT,
            env=os.environ | {'XLA_FLAGS': ''},  # one device
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )

    def step(self) -> int:
        """Returns the last step that metrics.jsonl tells of."""
        lines = self._metrics.read_text().split('\n')[:-1] if self._metrics.exists() else []
        return json.loads(lines[-1])['step'] if lines else 0

    def wait_for_step(self, step: int) -> float:
        """Waits until `step` is logged; returns the seconds that took."""
        start = time.monotonic()
        while self.step() < step:
            if self._process.poll() is not None:
                self._give_up(f'ended by itself at step {self.step()}, before step {step}')
            if time.monotonic() - start > PATIENCE:
                self._give_up(f'has not come to step {step} in {PATIENCE} seconds')
            time.sleep(0.01)
        return time.monotonic() - start

    def kill(self) -> None:
        """Sends SIGKILL to the program, which must still be running."""
        if self._process.poll() is not None:
            self._give_up('ended by itself before it was killed')
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def wait(self) -> None:
        """Waits for the program's end."""
        if self._process.wait():
            self._give_up(f'ended with exit code {self._process.returncode}')
        self._errors.close()

    def _give_up(self, why: str) -> None:
        self._process.kill()
        self._errors.seek(0)
        sys.exit(f'{self._errors.read()}\nthe program {why}')


def kill_repeatedly(folder: Path, epochs: int, kills: int, startup: float, moments: random.Random) -> int:
    """Starts the run, kills it, starts it again ..., and lets it end; returns the kills that hit a start."""
    early = 0
    for number in range(1, kills + 1):
        run = Start(folder, 'killed', epochs)
        before = run.step()
        if moments.random() < 0.25:
            moment = time.monotonic() + moments.uniform(0, startup)
            while time.monotonic() < moment and run.step() <= before:
                time.sleep(0.01)
        else:
            # Counted in steps, so that the run gets on; then a moment within a step, or a save.
            run.wait_for_step(before + moments.randint(1, STEPS_PER_KILL // 2))
            time.sleep(moments.uniform(0, 0.05))
        run.kill()
        early += run.step() <= before
        print(f'kill {number} of {kills}, step {before} to {run.step()}', flush=True)
    Start(folder, 'killed', epochs).wait()
    return early


def make_pictures(folder: Path) -> int:
    """Makes noisy pictures of eight training and four test classes; returns the number of training images."""
    noise = np.random.default_rng(0)
    for split, classes in (('train', 8), ('test', 4)):
        for label in range(classes):
            own = folder / split / f'{split}{label}'
            own.mkdir(parents=True)
            for i in range(6):
                Image.fromarray(noise.integers(0, 256, (16, 16, 3), np.uint8)).save(own / f'{i}.png')
    return 8 * 6


def differences(whole: Path, killed: Path, steps: int) -> list[str]:
    """Returns the names of what is not the same at the end of both runs."""
    metrics = [(run / 'metrics.jsonl').read_text() for run in (whole, killed)]
    logged = [json.loads(line)['step'] for line in metrics[1].splitlines()]
    different = [] if logged == list(range(1, steps + 1)) else ['steps of metrics.jsonl']
    if metrics[0] != metrics[1]:
        different.append('metrics.jsonl')
    expected, found = (final(run, steps) for run in (whole, killed))
    return different + [name for name in expected if expected[name] != found[name]]


def final(workdir: Path, steps: int) -> dict[str, tuple]:
    """Returns (dtype, shape, bytes) of all arrays of the checkpoint of step `steps`, the last, by name."""
    import jax
    from absl import logging

    from sreml_jax.run import Run
    from sreml_jax.training import checkpoint, optimizer, step

    logging.set_verbosity(logging.ERROR)  # orbax's
    checkpoints, newest = checkpoint.newest(workdir)
    if newest != steps:
        sys.exit(f'{workdir.name}: the newest checkpoint is of step {newest}, not {steps}')
    run = Run.of(checkpoints.config(newest))
    adam = optimizer.adam(optimizer.schedule(run.config, 1))
    state = checkpoints.state(newest, step.abstract_state(run.model, adam, run.mesh))
    arrays = {'state': vars(state), 'meta classes': checkpoints.meta_table(newest)}
    return {
        jax.tree_util.keystr(path): (array.dtype, array.shape, array.tobytes())
        for path, array in jax.tree_util.tree_leaves_with_path(jax.device_get(arrays))
    }


if __name__ == '__main__':
    main()
