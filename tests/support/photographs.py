"""Photographs of noise, and what the tiny model makes of them."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from sreml_jax.run import Run
from sreml_jax.search.index import Index
from sreml_jax.training import checkpoint
from support.tiny import tiny_dataset


def photograph(path: Path, seed: int) -> Path:
    """Writes a little picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def photographs(folder: Path, first: int, last: int) -> list[Path]:
    """Writes pictures of three classes; returns their paths in the order of the index."""
    paths = [photograph(folder / f'class{i % 3}' / f'{i:04}.png', i) for i in range(first, last)]
    return sorted(paths)


@functools.cache
def model(workdir: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The model of the newest checkpoint: normalized images -> logits."""
    checkpoints, newest = checkpoint.newest(workdir)
    run = Run.of(checkpoints.config(newest))
    variables = checkpoints.variables(newest, run.abstract_variables())
    return functools.partial(jax.jit(run.model.apply), variables)


def expected(workdir: Path, paths: list[Path]) -> np.ndarray:
    """The embeddings of 16 x 16 pictures: the model's logits, normalized here by numpy."""
    dataset = tiny_dataset()
    images = np.stack([np.asarray(Image.open(path)) for path in paths]) / 255
    images = ((images - dataset.mean) / dataset.std).astype(np.float32)
    batches = np.resize(images, (-(-len(paths) // 50), 50, 16, 16, 3))
    logits = np.concatenate([model(workdir)(batch) for batch in batches])[: len(paths)].astype(np.float64)
    unit = logits / np.linalg.norm(logits, axis=2, keepdims=True)
    return unit.reshape(len(paths), -1) / np.sqrt(logits.shape[1])


def paths_of(index: Index) -> list[str]:
    return [item.path for item in index.items(range(len(index)))]
