"""Refuses values of config fields. `command_line` refuses unknown flags, `flags` missing ones."""

from pathlib import Path

from ml_collections import ConfigDict

from sreml_jax import data
from sreml_jax.model.conv import member_conv
from sreml_jax.model.ensemble import member_dimensions
from sreml_jax.model.resnet import BACKBONES, POOLS
from sreml_jax.model.weights import files as weight_files
from sreml_jax.runtime import paths
from sreml_jax.runtime.errors import UserError, did_you_mean
from sreml_jax.runtime.text import quoted
from sreml_jax.training.optimizer import SCHEDULES

CHOSEN = ('image_size', 'ensemble_size', 'meta_class_size')  # 0: `recipe.fitted` chooses
CHOICES = {
    'data_name': data.NAMES,
    'crop_type': ('uncropped', 'cropped'),
    'split_by': ('classes', 'images'),
    'cache': ('auto', 'on', 'off'),
    'model_type': tuple(BACKBONES),
    'stem': ('imagenet', 'small'),
    'schedule': SCHEDULES,
    'pool': tuple(POOLS),
    'embedding': ('logits', 'pooled'),
    'dtype': ('auto', 'float32', 'bfloat16'),
    'member_conv': member_conv.CHOICES,
}
PATHS = ('data_dir', 'prepared_dir', 'compilation_cache')
RANGES = {  # the smallest and the largest value that make sense; in between, memory decides
    'image_size': (8, 8192),
    'max_images_per_class': (0, 10**6),
    'ensemble_size': (1, 4096),
    'meta_class_size': (2, 10**6),
    'width': (1, 1024),
    'batch_size': (1, 10**5),
    'num_epochs': (1, 10**6),
    'learning_rate': (1e-12, 100.0),
    'schedule_factor': (0.0, 1.0),
    'warmup_epochs': (0.0, 1e6),
    'skip_nonfinite': (0, 10**9),
    'seed': (0, 2**32 - 1),
    'validation_share': (0.0, 0.9),
    'validation_epochs': (1, 10**6),
    'eval_batch_size': (1, 10**5),
    'embedding_dim': (0, 10**7),
    'checkpoint_minutes': (0.0, 1e5),
    'checkpoints_kept': (1, 10**4),
    'stall_minutes': (0.001, 1e5),
    'log_every': (1, 10**9),
}


def check(config: ConfigDict) -> None:
    """Raises UserError for the first value that no run could use, naming the valid ones."""

    def shown(field: str) -> str:
        return f'config.{field}={quoted(config[field])}'

    for field in PATHS:
        paths.local(config[field], f'config.{field}')
    for field, choices in CHOICES.items():
        if config[field] not in choices:
            raise UserError(
                f'{shown(field)} is not known{did_you_mean(config[field], choices)}; '
                f'choose one of {", ".join(choices)}'
            )
    for field, (least, most) in RANGES.items():
        if field in CHOSEN and config[field] == 0:
            continue
        if not config[field] >= least:
            raise UserError(f'{shown(field)} is too small; it must be at least {least}')
        if config[field] > most:
            raise UserError(f'{shown(field)} is too large; it must be at most {most}')
    if config.weights not in ('imagenet', 'none') and Path(config.weights).suffix not in weight_files.READERS:
        raise UserError(
            f'{shown("weights")} is not known; choose imagenet, none, or a file whose name '
            f'ends in {", ".join(weight_files.READERS)}'
        )
    if config.weights != 'none' and (config.width, config.stem) != (64, 'imagenet'):
        raise UserError(
            f'{shown("weights")} needs config.width=64 and config.stem=imagenet, not '
            f'{config.width} and {config.stem}; change these, or set config.weights=none'
        )
    if not config.recalls or any(type(k) is not int or k < 1 for k in config.recalls):
        raise UserError(f'{shown("recalls")} must be whole numbers from 1 up, such as 1,2,4,8')
    if len(set(config.recalls)) < len(config.recalls):
        raise UserError(f'{shown("recalls")} names a number twice; name each once')
    whole = config.ensemble_size * member_dimensions(
        config.embedding, config.model_type, config.width, config.meta_class_size
    )
    if config.embedding_dim >= whole > 0:
        raise UserError(
            f'{shown("embedding_dim")} must be less than the {whole:,} numbers of this '
            'ensemble, or 0 for all of them'
        )
    if not 0 <= config.label_smoothing < 1:
        raise UserError(f'{shown("label_smoothing")} must be at least 0 and less than 1')
    if not all(isinstance(share, int | float) and 0 <= share <= 1 for share in config.schedule_steps):
        raise UserError(
            f'{shown("schedule_steps")} must be shares of the epochs, numbers in 0..1, such as 0.5,0.7'
        )
    if not 0 < config.train_fraction < 1:
        raise UserError(f'{shown("train_fraction")} must lie between 0 and 1')
    for field in ('mean', 'std'):
        numbers = all(type(v) in (int, float) and 0 <= v <= 1 for v in config[field])
        if len(config[field]) not in (0, 3) or not numbers:
            raise UserError(f'{shown(field)} must be three numbers in 0..1, or () to measure it')
    if any(deviation <= 0 for deviation in config.std):
        raise UserError(f'{shown("std")} must be above 0')
    if len(config.mesh) not in (0, 2) or any(type(n) is not int for n in config.mesh):
        raise UserError(f'{shown("mesh")} must be two whole numbers, (data, member), or ()')
    if any(type(number) is not int for number in config.gpu_ids):
        raise UserError(f'{shown("gpu_ids")} must be whole numbers, such as 0,1')
