"""Kills a run again and again, and compares its end with that of a run never killed, bit for bit.

python launch/bench/crash_test.py                     20 kills at random moments, and 4 at chosen ones
python launch/bench/crash_test.py --kills 5 --seed 1  other moments

Trains a tiny ensemble on generated images, on the CPU, in a temporary folder. Kills are SIGKILL: one while
the dataset is prepared, then at seeded random moments (one in four before the first step of a start, the
others soon after some step, while checkpoints are being saved), one in the last quarter of the training, one
while the last checkpoint is being saved, and one in the evaluation. Each start must train exactly the steps
after the newest checkpoint that the kill before it left. The last line says what was compared; exit code 1 if
anything differs.
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from crash_start import FIELDS, Moment, Start, import_program
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
STEPS_PER_KILL = 24  # the random kills must not come near the end of the run
TRIES = 20  # for one kill: a moment can be over before it is seen
CLASSES, PER_CLASS = 8, 6  # of the training images


def main() -> None:
    """Runs the killed run and the whole one, and compares them."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--kills', type=int, default=20, help='at random moments; 4 more come at chosen ones')
    p.add_argument('--seed', type=int, default=0, help='of the moments')
    args = p.parse_args()
    os.environ['JAX_PLATFORMS'] = 'cpu'
    one_device = '--xla_force_host_platform_device_count=1'  # the last one counts
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {one_device}'
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Every start takes the programs that the first one has compiled.
        os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(folder / 'xla'))
        os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
        import_program()
        make_images(folder / 'data')
        per_epoch = CLASSES * PER_CLASS // FIELDS['batch_size']
        epochs = -(-STEPS_PER_KILL * (args.kills + 2) // per_epoch)
        last = epochs * per_epoch

        def start(run: str) -> Start:
            return Start(folder / run, folder / 'data', epochs, last)

        whole = start('whole')
        whole.wait()
        moments = plan(args.kills, random.Random(args.seed))
        kills, trained = kill_repeatedly(lambda: start('killed'), folder / 'killed', moments)
        different = differences(folder / 'whole' / 'run', folder / 'killed' / 'run', last)
    done = f'{kills} kills, {last} steps, {trained - last} of them trained twice for want of a checkpoint'
    if different:
        print(f'{done}: DIFFERENT from a run never killed: {", ".join(different)}')
        sys.exit(1)
    print(
        f'{done}: parameters, statistics, optimizer state, meta classes, metrics.jsonl and results.json are '
        'bit for bit those of a run never killed'
    )


def kill_repeatedly(
    start: Callable[[], Start], place: Path, draws: Iterator[Callable[[Start, float], Moment]]
) -> tuple[int, int]:
    """Starts the run, kills it, starts it again ..., and lets it end; returns how many kills and steps."""
    before = place.with_name('before')  # the run as a start finds it
    trained, startup, number = 0, 1.0, 0
    for number, draw in enumerate(draws, 1):
        shutil.rmtree(before, ignore_errors=True)
        if place.exists():
            shutil.copytree(place, before)
        for _ in range(TRIES):
            run = start()
            moment = draw(run, startup)
            hit = run.kill_at(moment)
            if faults := run.faults():
                sys.exit(f'start {number}, killed in {moment.name}, {" and ".join(faults)}')
            startup = run.startup or startup
            if hit:
                break
            shutil.rmtree(place)
            if before.exists():
                shutil.copytree(before, place)
        else:
            sys.exit(f'{moment.name} was over before the kill, {TRIES} times')
        if number > 1 and not run.saved():
            sys.exit(f'kill {number} left no checkpoint')
        trained += len(run.steps())
        print(
            f'kill {number} in {moment.name}: went on from step {run.saved_before}, trained '
            f'{len(run.steps())} steps, left the checkpoint of step {run.saved()}',
            flush=True,
        )
    run = start()
    run.wait()
    if faults := run.faults():
        sys.exit(f'the last start {" and ".join(faults)}')
    return number, trained + len(run.steps())


def plan(kills: int, moments: random.Random) -> Iterator[Callable[[Start, float], Moment]]:
    """Yields for each kill what draws its moment, given the start and the seconds to a first step."""
    delay = 0.05  # up to this many seconds later: within a step, or a save

    def in_startup(run: Start, startup: float) -> Moment:
        until = moments.uniform(0, startup)
        return Moment('the startup', lambda run: run.seconds() > until, lambda run: bool(run.steps()))

    def after_step(run: Start, _: float) -> Moment:
        target = run.saved_before + moments.randint(1, STEPS_PER_KILL // 2)
        return soon_after(target, 'the training')

    def in_last_quarter(run: Start, _: float) -> Moment:
        return soon_after(moments.randint(run.last * 3 // 4 + 1, run.last - 2), 'the last quarter')

    def soon_after(step: int, name: str) -> Moment:
        return Moment(
            name,
            lambda run: bool(run.saved()) and run.steps()[-1:] >= [step],
            lambda run: run.steps()[-1:] == [run.last],
            moments.uniform(0, delay),
        )

    yield lambda *_: Moment('the preparation', Start.is_preparing, Start.is_prepared)
    yield after_step
    for _ in range(kills - 1):
        yield in_startup if moments.random() < 0.25 else after_step
    yield in_last_quarter
    yield lambda *_: Moment(
        'the last save', lambda run: run.is_saving(run.last), lambda run: run.saved() == run.last
    )
    yield lambda *_: Moment(
        'the evaluation', lambda run: run.saved() == run.last, Start.is_evaluated, moments.uniform(0, delay)
    )


def make_images(folder: Path) -> None:
    """Makes noisy images of eight training and four test classes."""
    noise = np.random.default_rng(0)
    for split, classes in (('train', CLASSES), ('test', CLASSES // 2)):
        for label in range(classes):
            own = folder / split / f'{split}{label}'
            own.mkdir(parents=True)
            for i in range(PER_CLASS):
                Image.fromarray(noise.integers(0, 256, (8, 8, 3), np.uint8)).save(own / f'{i}.png')


def differences(whole: Path, killed: Path, steps: int) -> list[str]:
    """Returns the names of what is not the same at the end of both runs."""
    logged = [json.loads(line)['step'] for line in (killed / 'metrics.jsonl').read_text().splitlines()]
    different = [] if logged == list(range(1, steps + 1)) else ['steps of metrics.jsonl']
    for name in ('metrics.jsonl', 'results.json'):
        if (whole / name).read_text() != (killed / name).read_text():
            different.append(name)
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
        sys.exit(f'{workdir}: the newest checkpoint is of step {newest}, not {steps}')
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
