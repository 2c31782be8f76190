"""The config that a checkpoint was saved with, and what a later run may change of it."""

from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from sreml_jax.configs import default
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import quoted

# A checkpoint with one value of these fields is useless to a run with another.
FIXED = ('data_name', 'model_type', 'width', 'stem', 'pool', 'ensemble_size', 'meta_class_size')


def with_normalization(config: ConfigDict, mean: Iterable[float], std: Iterable[float]) -> ConfigDict:
    """Returns the config with this mean and std; an empty one leaves the config's own.

    A checkpoint then says how its images are normalized, and no other config changes that.
    """
    config = config.copy_and_resolve_references()
    config.mean = tuple(map(float, mean)) or config.mean
    config.std = tuple(map(float, std)) or config.std
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
