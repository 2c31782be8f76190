"""What a config must say to be run, and what may change when a run goes on."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs import default
from sreml_jax.errors import UserError, nearest
from sreml_jax.learning.optimizer import SCHEDULES
from sreml_jax.model import member_conv, weights_file
from sreml_jax.model.ensemble import numbers_of_member
from sreml_jax.model.resnet import BACKBONES, POOLS

CHOICES = {
    'data_name': ('car', 'cub', 'sop', 'isc', 'folder', 'glyphs'),
    'crop_type': ('uncropped', 'cropped'),
    'cache': ('auto', 'on', 'off'),
    'model_type': tuple(BACKBONES),
    'stem': ('imagenet', 'small'),
    'schedule': SCHEDULES,
    'pool': tuple(POOLS),
    'embedding': ('logits', 'pooled'),
    'dtype': ('auto', 'float32', 'bfloat16'),
    'member_conv': member_conv.CHOICES,
}
LEAST = {  # the smallest value that makes sense
    'image_size': 8,
    'max_images_per_class': 0,
    'ensemble_size': 1,
    'meta_class_size': 2,
    'width': 1,
    'batch_size': 1,
    'num_epochs': 1,
    'learning_rate': 0.0,
    'schedule_factor': 0.0,
    'warmup_epochs': 0.0,
    'skip_nonfinite': 0,
    'seed': 0,
    'eval_batch_size': 1,
    'embedding_dim': 0,
    'checkpoint_minutes': 0.0,
    'checkpoints_kept': 1,
    'stall_minutes': 0.01,
    'log_every': 1,
}
# A checkpoint of one is no checkpoint of the other.
FIXED = ('data_name', 'model_type', 'width', 'stem', 'pool', 'ensemble_size', 'meta_class_size')


def check(config: ConfigDict) -> None:
    """Raises UserError for the first value that no run could use, naming the valid ones."""
    for field, choices in CHOICES.items():
        if config[field] not in choices:
            raise UserError(
                f'config.{field}={config[field]!r} is not known{nearest(config[field], choices)}; '
                f'choose one of {", ".join(choices)}'
            )
    for field, least in LEAST.items():
        if not config[field] >= least:
            raise UserError(f'config.{field}={config[field]} is too small; it must be at least {least}')
    if config.weights not in ('imagenet', 'none') and Path(config.weights).suffix not in weights_file.READERS:
        raise UserError(
            f'config.weights={config.weights!r} is not known; choose imagenet, none, or a file whose name '
            f'ends in {", ".join(weights_file.READERS)}'
        )
    if config.weights != 'none' and (config.width, config.stem) != (64, 'imagenet'):
        raise UserError(
            f'config.weights={config.weights} needs config.width=64 and config.stem=imagenet, not '
            f'{config.width} and {config.stem}; change these, or set config.weights=none'
        )
    if not config.recalls or any(not isinstance(k, int) or k < 1 for k in config.recalls):
        raise UserError(f'config.recalls={config.recalls} must be whole numbers from 1 up, such as 1,2,4,8')
    whole = config.ensemble_size * numbers_of_member(
        config.embedding, config.model_type, config.width, config.meta_class_size
    )
    if config.embedding_dim >= whole:
        raise UserError(
            f'config.embedding_dim={config.embedding_dim} must be less than the {whole:,} numbers of this '
            'ensemble, or 0 for all of them'
        )
    if not 0 <= config.label_smoothing < 1:
        raise UserError(f'config.label_smoothing={config.label_smoothing} must be at least 0 and less than 1')
    if not all(isinstance(share, int | float) and 0 <= share <= 1 for share in config.schedule_steps):
        raise UserError(
            f'config.schedule_steps={config.schedule_steps} must be shares of the epochs, numbers in 0..1, '
            'such as 0.5,0.7'
        )
    if not 0 < config.train_fraction < 1:
        raise UserError(f'config.train_fraction={config.train_fraction} must lie between 0 and 1')
    for field in ('mean', 'std'):
        if len(config[field]) not in (0, 3) or not all(0 <= v <= 1 for v in config[field]):
            raise UserError(
                f'config.{field}={config[field]} must be three numbers in 0..1, or () to measure it'
            )
    if any(s <= 0 for s in config.std):
        raise UserError(f'config.std={config.std} must be above 0')
    if len(config.mesh) not in (0, 2):
        raise UserError(f'config.mesh={config.mesh} must be two numbers, (data, member), or ()')


def with_colours(config: ConfigDict, mean: Iterable[float], std: Iterable[float]) -> ConfigDict:
    """Returns the config with these in the place of a mean and std that it leaves open.

    So a checkpoint says how its images are normalised, and needs no training images to tell.
    """
    config = config.copy_and_resolve_references()
    config.mean = config.mean or tuple(map(float, mean))
    config.std = config.std or tuple(map(float, std))
    return config


def restore(saved: Mapping[str, Any]) -> ConfigDict:
    """Returns the config of a checkpoint, from its JSON; fields that it does not know keep their defaults."""
    config = default.get_config()
    with config.ignore_type():
        for field, value in saved.items():
            if field in config:
                config[field] = tuple(value) if isinstance(value, list) else value
    return config


def differences(saved: ConfigDict, wanted: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Returns field -> (saved value, wanted value) of the fields that differ."""
    return {f: (saved[f], wanted[f]) for f in wanted if saved[f] != wanted[f]}


def refuse_other_model(saved: ConfigDict, wanted: ConfigDict, workdir: str) -> None:
    """Raises UserError, naming the fields, where `workdir` holds another model's or dataset's checkpoint."""
    changed = {f: v for f, v in differences(saved, wanted).items() if f in FIXED}
    if changed:
        fields = ', '.join(f'{f} is {was!r} there and {now!r} here' for f, (was, now) in changed.items())
        raise UserError(f'{workdir} holds the checkpoint of another run: {fields}; take another --workdir')
