"""What the tests of the pages look at: a run that has only begun, and its test images as files."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sreml_jax.data.in_memory import ArrayDataset
from sreml_jax.run import Run
from sreml_jax.training import saved_config, step
from sreml_jax.training.checkpoint import Checkpoints
from support.runs import adam_of
from support.tiny import tiny_config, tiny_dataset

STRANGE = '<b>odd</b> & "quoted" name'  # of a class: shown as it is


def begun(folder: Path) -> Path:
    """Writes the checkpoint of step 0, and the scalars of a run."""
    dataset = tiny_dataset()
    config = saved_config.with_normalization(tiny_config(learning_rate=0.25), dataset.mean, dataset.std)
    run, checkpoints = Run.of(config), Checkpoints(folder)
    table = np.zeros((config.ensemble_size, 8), np.int32)
    checkpoints.save_last(step.initial_state(run.model, adam_of(run, 1), run.mesh, seed=0), table, config, {})
    checkpoints.close()
    lines = [{'step': i, 'loss': 2 - i / 50, 'accuracy': i / 100, 'learning_rate': 0.1} for i in range(1, 61)]
    lines[7]['loss'] = None
    text = '\n'.join(map(json.dumps, lines))
    (folder / 'metrics.jsonl').write_text(text + '\n{"step": 61, "lo')  # cut off
    results = {'step': 0, 'embedding': 'resnet18 x 2', 'map_at_r': 0.4375, 'r_precision': 0.5625}
    results['baselines'] = {'raw pixels': {'1': 0.125, '2': 0.25}, 'random resnet18, pooled': {'1': 0.1875}}
    points = ((1, 0.25, 0.02, 2), (2, 0.375, 0.0, 1))
    names = ('members', 'mean', 'deviation', 'subsets')
    results['members_curve'] = [dict(zip(names, point, strict=True)) for point in points]
    results['shrunk'] = [{'dimensions': 8, 'storage': 'int8', 'image_bytes': 8, 'recall': 0.3125}]
    Image.new('RGB', (30, 20), 'green').save(folder / 'members_curve.png')
    (folder / 'results.json').write_text(json.dumps(results))
    return folder


def named_dataset() -> ArrayDataset:
    """The tiny dataset, one of its classes of a strange name."""
    dataset = tiny_dataset()
    dataset.class_names['test'][8] = STRANGE
    return dataset


def files(folder: Path) -> list[Path]:
    """Writes the test images of the tiny dataset, a folder a class, and returns their paths in order."""
    dataset = tiny_dataset()
    paths = []
    images = next(dataset.images('test', np.arange(42), 42))
    for i, (image, label) in enumerate(zip(images, dataset.labels['test'], strict=True)):
        path = folder / f'class{label}' / f'{i:02}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        paths.append(path)
    return sorted(paths)


@contextmanager
def served(finder) -> Iterator[str]:
    """Serves the page in a thread; yields its address."""
    import uvicorn

    from sreml_jax.search import server as search_page

    server = uvicorn.Server(search_page.settings(search_page.app(finder, ('127.0.0.1',)), port=0))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f'http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}'
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def browser():
    """Yields a headless Chromium; skips the test where there is none."""
    sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    chromium = shutil.which('chromium')
    if not chromium:
        pytest.skip("there is no chromium: install Debian's package of that name")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        yield opened
        opened.close()
