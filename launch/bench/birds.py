"""Training and evaluation of a whole ensemble on photographs, and where the time goes; without tensorflow.

python launch/bench birds --images=FOLDER                   a folder or tar of <class>/*, squashed to --size
python launch/bench birds --images=FOLDER --weights=resnet18.npz --epochs=8

The first half of the sorted classes trains, the other half is searched; train/<class> and test/<class> are
taken as they are. PIL decodes the photographs into memory first.
"""

import argparse
import contextlib
import signal
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from measure import keep, keep_so_far, positive
from PIL import Image

from sreml_jax.configs import default
from sreml_jax.data.in_memory import ArrayDataset
from sreml_jax.evaluate import evaluate
from sreml_jax.runtime.signals import Signals
from sreml_jax.train import train
from sreml_jax.training.checkpoint import Checkpoints

SUFFIXES = ('.jpg', '.jpeg', '.png')


def main() -> None:
    """Runs what the flags ask for."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--images', required=True, help='a folder or tar of <class>/*')
    p.add_argument('--weights', default='none', help='initial weights: a file, or none')
    p.add_argument('--model_type', default='resnet18')
    p.add_argument('--members', type=positive, default=48)
    p.add_argument('--meta_classes', type=positive, default=12)
    p.add_argument('--size', type=positive, default=256)
    p.add_argument('--batch', type=positive, default=12)
    p.add_argument('--epochs', type=positive, default=8)
    p.add_argument('--json', help='keep the figures in this file')
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder, timed() as seconds:
        with clock(seconds, 'decoding'):
            dataset = photographs(Path(args.images), args.size, Path(folder))
        config = config_of(args)
        with clock(seconds, 'training'):
            train(config, Path(folder) / 'run', dataset, Signals())
        figures = of_training(dataset, args, seconds)
        keep_so_far(figures, args)
        signal.set_wakeup_fd(-1)
        with clock(seconds, 'evaluation'):
            found = evaluate(config, Path(folder) / 'run', dataset, thorough=True)
    figures['seconds'] = rounded(seconds)
    figures['Recall'] = {str(k): round(value, 4) for k, value in found.recall.items()}
    keep(figures, args)


def of_training(dataset: ArrayDataset, args: argparse.Namespace, seconds: dict[str, float]) -> dict:
    """Returns the figures of the training, whose seconds `timed` has."""
    steps = args.epochs * dataset.steps_per_epoch(args.batch)
    running = seconds['training'] - seconds['training: compilation'] - seconds['training: saves']
    return {
        'device': jax.devices()[0].device_kind,
        'train images': len(dataset.labels['train']),
        'queries': len(dataset.labels['test']),
        'steps': steps,
        'seconds': rounded(seconds),
        'images/s of training, compilation and saves included': round(
            steps * args.batch / seconds['training'], 1
        ),
        'images/s of training without them': round(steps * args.batch / running, 1),
    }


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    """Returns the seconds to hundredths."""
    return {name: round(value, 2) for name, value in seconds.items()}


def config_of(args: argparse.Namespace):
    """Returns the config of the run."""
    config = default.get_config()
    config.update(
        data_name='folder',
        model_type=args.model_type,
        weights=args.weights,
        ensemble_size=args.members,
        meta_class_size=args.meta_classes,
        image_size=args.size,
        batch_size=args.batch,
        num_epochs=args.epochs,
    )
    return config


def photographs(images: Path, size: int, folder: Path) -> ArrayDataset:
    """Returns the photographs as arrays, RGB, squashed to size x size.

    `images` holds <class>/*, whose sorted classes are halved, or train/<class>/* and test/<class>/*.
    """
    if images.is_file():
        with tarfile.open(images) as tar:
            tar.extractall(folder / 'images', filter='data')
        images = folder / 'images'
    paths = sorted(path for path in images.rglob('*') if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f'error: no pictures in {images}')
    classes = sorted({path.parent for path in paths})
    labels = np.array([classes.index(path.parent) for path in paths], np.int32)

    def read(path: Path) -> np.ndarray:
        with Image.open(path) as picture:
            return np.asarray(picture.convert('RGB').resize((size, size), Image.Resampling.BILINEAR))

    with ThreadPoolExecutor() as pool:
        pixels = np.stack(list(pool.map(read, paths)))
    tested = np.arange(len(classes)) >= len(classes) // 2
    if {path.parent.name for path in classes} == {'train', 'test'}:
        tested = np.array([path.parent.name == 'test' for path in classes])
    chosen = {'train': ~tested[labels], 'test': tested[labels]}
    return ArrayDataset(
        images.name,
        {split: pixels[mask] for split, mask in chosen.items()},
        {split: labels[mask] for split, mask in chosen.items()},
    )


def whole(dataset: ArrayDataset, split: str) -> np.ndarray:
    """Returns all images of a split, uint8 [n, H, W, 3]."""
    n = len(dataset.labels[split])
    return next(dataset.read(split, [np.arange(n)], n))


@contextlib.contextmanager
def clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Adds the seconds of the block; 'part: what' of the parts that `timed` watches."""
    start, before = time.perf_counter(), (seconds['compilation'], seconds['saves'])
    yield
    seconds[name] = time.perf_counter() - start
    for what, then in zip(('compilation', 'saves'), before, strict=True):
        seconds[f'{name}: {what}'] = seconds[what] - then


@contextlib.contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Yields the seconds so far of 'compilation' and of 'saves', for which training waits."""
    seconds = {'compilation': 0.0, 'saves': 0.0}

    def listen(event: str, duration: float, **_) -> None:
        if event.endswith('backend_compile_duration'):
            seconds['compilation'] += duration

    waits = 0  # how deep in saves: one may call another

    def waiting(method):
        def run(*given, **named):
            nonlocal waits
            start, waits = time.perf_counter(), waits + 1
            try:
                return method(*given, **named)
            finally:
                waits -= 1
                seconds['saves'] += 0 if waits else time.perf_counter() - start

        return run

    jax.monitoring.register_event_duration_secs_listener(listen)
    methods = {name: waiting(getattr(Checkpoints, name)) for name in ('save', 'wait')}
    with mock.patch.multiple(Checkpoints, **methods):
        yield seconds
