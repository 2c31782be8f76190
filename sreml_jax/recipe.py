"""Chooses members, image size and meta classes for the photographs and the machine if the config has 0."""

import functools
import logging
import math

import jax
import numpy as np
from ml_collections import ConfigDict

from sreml_jax import memory, needs
from sreml_jax.data.dataset import Extent
from sreml_jax.model import cost
from sreml_jax.model.ensemble import Ensemble
from sreml_jax.runtime import hosts, machine

log = logging.getLogger(__name__)

FIELDS = ('ensemble_size', 'image_size', 'meta_class_size')
META_CLASSES = 100
MEMBERS = (48, 24, 16, 12, 8, 6, 4)
GPU_SIZE, CPU_SIZES = 256, (128, 96, 64)  # pixels of both sides, the largest that fits first
MEMORY_SHARE = 0.8  # of the free memory
CPU_SECONDS = 360.0  # for the whole training, if there is no GPU
CORE_SPEED = 60e9  # floating-point operations per second of one CPU core; we measured 60 to 100 billion
_UNKNOWN = Extent(images=1000, classes=META_CLASSES, side=GPU_SIZE)


def fitted(config: ConfigDict, extent: Extent | None = None) -> ConfigDict:
    """Returns the config with a value chosen for each of `FIELDS` that is 0; logs the choices and why.

    A GPU gets as many members as its memory holds. A CPU gets the largest images of which it can train four
    members within CPU_SECONDS, and then as many members as this time allows.

    Args:
      config: of a run that begins.
      extent: of the training images; None: unknown.
    """
    open_fields = [field for field in FIELDS if not config[field]]
    if not open_fields:
        return config
    known, config = extent or _UNKNOWN, config.copy_and_resolve_references()
    if not config.meta_class_size:
        config.meta_class_size = max(2, min(META_CLASSES, known.classes))
    # Several hosts must choose alike, whatever memory each has.
    config.ensemble_size, config.image_size = hosts.combine(np.array(_choose(config, known)), np.min).tolist()
    shown = {
        'ensemble_size': f'{config.ensemble_size} members',
        'image_size': f'{config.image_size}x{config.image_size} pixels',
        'meta_class_size': f'{config.meta_class_size} meta classes',
    }
    if known.classes < META_CLASSES:
        shown['meta_class_size'] += f' (there are only {known.classes} classes to train on)'
    log.info(
        'chosen for %s of %d pixels and %s: %s; set by %s',
        f'{known.images:,} images' if extent else 'a thousand images',
        known.side,
        _machine(config, known),
        ', '.join(shown[field] for field in open_fields),
        ' '.join(f'--config.{field}' for field in open_fields),
    )
    return config


def _choose(config: ConfigDict, extent: Extent) -> tuple[int, int]:
    """Returns (members, image size)."""
    _, member = needs.mesh_shape(config)
    members = [n for n in MEMBERS if n % member == 0] or [member * max(1, MEMBERS[0] // member)]
    members = [config.ensemble_size] if config.ensemble_size else members
    most = max(64, -(-extent.side // 32) * 32)  # larger ones would be blurred copies
    cpu = jax.default_backend() == 'cpu'
    sizes = [min(most, size) for size in (CPU_SIZES if cpu else (GPU_SIZE,))]
    sizes = [config.image_size] if config.image_size else sizes
    for size in sizes:
        for number in members:
            in_time = not cpu or training_seconds(config, extent, number, size) <= CPU_SECONDS
            if in_time and _fits(config, number, size):
                return number, size
    return members[-1], sizes[-1]


def _fits(config: ConfigDict, members: int, size: int) -> bool:
    """Whether training takes no more than MEMORY_SHARE of what is free."""
    tried = config.copy_and_resolve_references()
    tried.ensemble_size, tried.image_size = members, size
    free = memory.free()
    return not free or sum(memory.training_needs(tried).values()) <= MEMORY_SHARE * free


def training_seconds(config: ConfigDict, extent: Extent, members: int, size: int) -> float:
    """Estimates how many seconds this many members at this image size train on this machine's CPU cores."""
    trunk, member = _operations(config.model_type, config.width, config.stem)
    each = 3 * (trunk + members * member) * (size / 224) ** 2  # forward, and twice as much backward
    return each * extent.images * config.num_epochs / (CORE_SPEED * machine.cores())


@functools.cache
def _operations(model_type: str, width: int, stem: str) -> tuple[float, float]:
    """Returns the operations of the trunk's and of one member's forward pass on an image of 224x224."""
    model = Ensemble(model_type, members=1, meta_classes=2, width=width, stem=stem)
    operations = {'trunk': 0.0, 'members': 0.0}
    for layer in cost.layers(model, 224):
        operations[layer.path[0]] += 2 * math.prod(layer.outputs[:-1]) * math.prod(layer.kernel)
    return operations['trunk'], operations['members']


def _machine(config: ConfigDict, extent: Extent) -> str:
    """Returns the device, and on a CPU how long training takes by estimate."""
    if jax.default_backend() != 'cpu':
        return jax.local_devices()[0].device_kind
    seconds = training_seconds(config, extent, config.ensemble_size, config.image_size)
    return f'{machine.cores()} CPU cores (some {math.ceil(seconds / 60)} minutes of training)'
