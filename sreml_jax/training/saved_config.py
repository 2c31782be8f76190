"""The config that a checkpoint was saved with, and what a later run may change of it."""

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from sreml_jax.configs import default
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import quoted

log = logging.getLogger(__name__)

# A checkpoint with one value of these fields is useless to a run with another.
FIXED = ('data_name', 'model_type', 'width', 'stem', 'pool', 'ensemble_size', 'meta_class_size')

# A run keeps these although a config file says otherwise; only flags change them, if anything may.
OF_RUN = (
    *FIXED[1:],
    'image_size',
    'crop_type',
    'weights',
    'mean',
    'std',
    'train_fraction',
    'validation_share',
    'seed',
)


def with_normalization(config: ConfigDict, mean: Iterable[float], std: Iterable[float]) -> ConfigDict:
    """Returns the config with this mean and std; an empty one leaves the config's own.

    A checkpoint then says how its images are normalized, and no other config changes that.
    """
    config = config.copy_and_resolve_references()
    config.mean = tuple(map(float, mean)) or config.mean
    config.std = tuple(map(float, std)) or config.std
    return config


def going_on(saved: ConfigDict, wanted: ConfigDict, said: Collection[str]) -> ConfigDict:
    """Returns the config with which a later command goes on with a run: the run's own, and what is said.

    Args:
      saved: of the run's newest checkpoint.
      wanted: of the command's config file and flags.
      said: fields that flags set. They count. A config file counts in the fields that it sets and that are
        not `OF_RUN`.

    Raises:
      UserError: a flag sets another normalization than the checkpoint's.
    """
    config, usual, kept = saved.copy_and_resolve_references(), default.get_config(), []
    for field in wanted:
        # The data set is always that of the config file, so that a wrong workdir is refused.
        of_file = field == 'data_name' or wanted[field] != usual[field]
        measured = field in ('mean', 'std') and field in said and saved[field]
        if measured and wanted[field] not in ((), saved[field]):
            raise UserError(
                f'config.{field}={wanted[field]} is not the {field} that this run was trained with '
                f'({saved[field]}), which belongs to its checkpoint; leave the flag out'
            )
        if field in OF_RUN and field not in said:
            if of_file and wanted[field] not in (0, saved[field]):
                kept.append(f'{field} is {saved[field]!r}, not {wanted[field]!r}')
        elif of_file or field in said:
            config[field] = wanted[field]
    if kept:
        log.info('the run keeps what it began with, where the config file differs: %s', ', '.join(kept))
    return config


def restore(saved: Mapping[str, Any]) -> ConfigDict:
    """Returns the config of a checkpoint from its JSON; fields that it lacks keep their defaults.

    Raises:
      ValueError: a value has another type than its field.
    """
    config = default.get_config()
    for field, value in saved.items():
        if field in config:
            value = tuple(value) if isinstance(value, list) else value
            known = type(config[field])
            if type(value) is not known and not (known is float and type(value) is int):
                raise ValueError(f'{field} is {quoted(value)}')
            config[field] = value
    return config


def differences(saved: ConfigDict, wanted: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Returns field -> (saved value, wanted value) of the fields that differ."""
    return {f: (saved[f], wanted[f]) for f in wanted if saved[f] != wanted[f]}


def refuse_other_model(saved: ConfigDict, wanted: ConfigDict, workdir: str) -> None:
    """Raises UserError, naming the fields, if `workdir` holds another model's or dataset's checkpoint."""
    changed = {f: v for f, v in differences(saved, wanted).items() if f in FIXED}
    if changed:
        fields = ', '.join(
            f'{f} is {quoted(was)} there and {quoted(now)} here' for f, (was, now) in changed.items()
        )
        raise UserError(f'{workdir} holds the checkpoint of another run: {fields}; take another --workdir')
