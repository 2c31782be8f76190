"""The first line of a mode: on what it runs, and how much there is to do."""

import shutil
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from sreml_jax import memory, needs, recipe
from sreml_jax.data.dataset import Dataset, Extent, images_per_epoch
from sreml_jax.model import init
from sreml_jax.run import model_of
from sreml_jax.runtime import machine
from sreml_jax.runtime.text import printable

_SLOW_SECONDS = 3600.0


def headline(config: ConfigDict, dataset: Dataset | None = None, *, training: bool = False) -> str:
    """Returns device, images and classes, members, parameters and memory, as one line.

    Args:
      config: of the run.
      dataset: of the run, if the mode reads it.
      training: whether the mode trains: what that needs is a part of the line.
    """
    variables = init.shapes(model_of(config))
    parameters = needs.count(variables['params'])
    parts = [_device(_training_seconds(config, dataset) if dataset and training else 0.0)]
    if dataset is not None:
        parts.append(', '.join(_split(dataset, split) for split in dataset.labels))
    members = f'{config.ensemble_size} members' if config.ensemble_size > 1 else '1 member'
    parts.append(
        f'{members} of {config.model_type} at {config.image_size}x{config.image_size}, '
        f'{parameters / 1e6:,.1f} million parameters'
    )
    needed = sum(memory.training_needs(config).values()) if training else needs.size(variables)
    free = memory.free()
    parts.append(
        f'{"training" if training else "weights"} {needed / needs.GIB:.1f} GiB'
        + (f', {free / needs.GIB:.1f} GiB free' if free else '')
    )
    return '; '.join(parts)


def of_embeddings(name: str | Path, shape: tuple[int, ...]) -> str:
    """Returns the device, and how many embeddings [n, d] a mode reads from where, as one line."""
    return f'{_device()}; {printable(name)}; {shape[0]:,} embeddings of {shape[1]:,} dimensions'


def of_preparation(config: ConfigDict, source: Path | None) -> str:
    """Returns what is prepared from where to where, and on how many cores, as one line.

    Args:
      config: of the run.
      source: of the images, or None if the program draws them.
    """
    made = 'drawn by the program'
    if source:
        made = f'from {printable(source)}' if source.exists() else f'downloaded into {printable(source)}'
    return (
        f'{_cpu()}; {config.data_name}, {made}; prepared copies in '
        f'{printable(Path(config.prepared_dir).expanduser())}'
    )


def of_removal(folder: Path, number: int, images: str | None, gone: bool) -> str:
    """Returns from how many images of which index some are taken out, and which, as one line.

    Args:
      folder: of the index.
      number: of its images.
      images, gone: see `search.embed.remove`.
    """
    unwanted = [f'those of {printable(images)}'] if images else []
    unwanted += ['those whose files are gone'] if gone else []
    return f'{printable(folder)}; {number:,} images; taking out {" and ".join(unwanted)}'


def _split(dataset: Dataset, split: str) -> str:
    labels = dataset.labels[split]
    return f'{split} {len(labels):,} images of {len(np.unique(labels)):,} classes'


def _device(seconds: float = 0.0) -> str:
    """Names the devices, and warns if a CPU is slow: because a GPU goes unused, or training takes hours."""
    if jax.default_backend() != 'cpu':
        return f'{jax.device_count()} x {jax.local_devices()[0].device_kind}'
    if Path('/proc/driver/nvidia/version').exists() or shutil.which('nvidia-smi'):
        return f"{_cpu()}: slow, while JAX does not see this machine's GPU (pip install 'jax[cuda13]')"
    slow = f': slow, some {seconds / 3600:,.0f} hours of training' if seconds > _SLOW_SECONDS else ''
    return f'{_cpu()}{slow}'


def _training_seconds(config: ConfigDict, dataset: Dataset) -> float:
    images = images_per_epoch(dataset.labels['train'], config.max_images_per_class)
    extent = Extent(images, dataset.num_classes, config.image_size)
    return recipe.training_seconds(config, extent, config.ensemble_size, config.image_size)


def _cpu() -> str:
    return f'CPU ({machine.cores()} cores)'
