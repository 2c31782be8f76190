"""The first line of a mode: on what it runs, and how much there is to do."""

import shutil
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from sreml_jax import describe, memory, recipe
from sreml_jax.data.dataset import Dataset, Extent, images_per_epoch
from sreml_jax.model import init
from sreml_jax.run import model_of
from sreml_jax.runtime import machine

_SLOW_SECONDS = 3600.0


def headline(config: ConfigDict, dataset: Dataset | None = None, *, training: bool = False) -> str:
    """Returns device, images and classes, members, parameters and memory, as one line.

    Args:
      config: of the run.
      dataset: of the run, if the mode reads it.
      training: whether the mode trains: what that needs is a part of the line.
    """
    variables = init.shapes(model_of(config))
    parameters = describe.count(variables['params'])
    parts = [_device(config, dataset if training else None)]
    if dataset is not None:
        parts.append(', '.join(_split(dataset, split) for split in dataset.labels))
    members = f'{config.ensemble_size} members' if config.ensemble_size > 1 else '1 member'
    parts.append(
        f'{members} of {config.model_type} at {config.image_size}x{config.image_size}, '
        f'{parameters / 1e6:,.1f} million parameters'
    )
    needed = sum(memory.training_needs(config).values()) if training else describe.size(variables)
    free = memory.free()
    parts.append(
        f'{"training" if training else "weights"} {needed / describe.GIB:.1f} GiB'
        + (f', {free / describe.GIB:.1f} GiB free' if free else '')
    )
    return '; '.join(parts)


def _split(dataset: Dataset, split: str) -> str:
    labels = dataset.labels[split]
    return f'{split} {len(labels):,} images of {len(np.unique(labels)):,} classes'


def _device(config: ConfigDict, trained: Dataset | None) -> str:
    """Names the devices, and warns if a CPU is slow: because a GPU goes unused, or training takes hours."""
    if jax.default_backend() != 'cpu':
        return f'{jax.device_count()} x {jax.local_devices()[0].device_kind}'
    cpu = f'CPU ({machine.cores()} cores)'
    if Path('/proc/driver/nvidia/version').exists() or shutil.which('nvidia-smi'):
        return f"{cpu}: slow, while JAX does not see this machine's GPU (pip install 'jax[cuda13]')"
    if trained is None:
        return cpu
    labels = trained.labels['train']
    images = images_per_epoch(labels, config.max_images_per_class)
    extent = Extent(images, trained.num_classes, config.image_size)
    seconds = recipe.training_seconds(config, extent, config.ensemble_size, config.image_size)
    return f'{cpu}: slow, some {seconds / 3600:,.0f} hours of training' if seconds > _SLOW_SECONDS else cpu
