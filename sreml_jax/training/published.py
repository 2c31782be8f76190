"""A trained run as others get it: weights, config and meta classes, without the optimizer's state.

model.safetensors   parameters and statistics, by their path in the model
config.json         the config, the step, checksums, and the versions of the packages that trained
meta_classes.json   names of the training classes; which meta class each is in, for each member
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sreml_jax.runtime import files
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable
from sreml_jax.training import checksums, saved_config

WEIGHTS, ABOUT, META_CLASSES = 'model.safetensors', 'config.json', 'meta_classes.json'
_OWN = ('data_dir', 'prepared_dir', 'compilation_cache')  # they name places on one machine
_FORMAT = 1
T = TypeVar('T')


def write(
    folder: Path,
    variables: dict[str, Any],
    config: ConfigDict,
    *,
    step: int,
    versions: dict[str, str],
    meta_table: np.ndarray,
    classes: list[str],
) -> None:
    """Writes the three files. Fields of the config that name places on this machine are left out.

    Args:
      folder: it exists.
      variables: parameters and BatchNorm statistics, on the devices of a mesh.
      config: of the checkpoint.
      step: of the checkpoint.
      versions: of the packages that saved it.
      meta_table: int32 [members, classes].
      classes: names of the training classes; [] if the checkpoint does not know them.
    """
    arrays = jax.device_get(traverse_util.flatten_dict(variables, sep='/'))
    fields = {name: value for name, value in config.to_dict().items() if name not in _OWN}
    if Path(config.weights).suffix:  # a file of this machine, which training began with
        fields['weights'] = 'none'
    about = {
        'library_name': 'sreml_jax',
        'format': _FORMAT,
        'step': step,
        'config': fields,
        'versions': versions,
        'checksums': checksums.of_arrays(variables),
    }
    with files.atomic_write(folder / WEIGHTS) as temporary:
        save_file({name: np.ascontiguousarray(x) for name, x in arrays.items()}, temporary)
    _write_json(folder / META_CLASSES, {'classes': classes, 'table': meta_table.tolist()})
    _write_json(folder / ABOUT, about)


def is_there(folder: Path) -> bool:
    """Returns whether the folder holds a published run."""
    return (folder / WEIGHTS).is_file() and (folder / ABOUT).is_file()


class Published:
    """A published run, read like the checkpoints of a run: it has one step.

    Args:
      folder: that `write` filled.

    Raises:
      UserError: a file is damaged, or of a later version. Every method raises this too.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._about = self._json(ABOUT, ('format', 'step', 'config', 'versions', 'checksums'))
        if self._about['format'] != _FORMAT:
            raise UserError(f'{folder} was written by another version of this program; take a newer one')

    def steps(self) -> list[int]:
        """Returns the one step."""
        return [self._about['step']]

    def newest_whole(self, read: Callable[[int], T]) -> tuple[int, T]:
        """Returns the step, and what `read(step)` returns."""
        (step,) = self.steps()
        return step, read(step)

    def config(self, _: int) -> ConfigDict:
        """Returns the config, with this program's defaults for places on a machine."""
        try:
            return saved_config.restore(self._about['config'])
        except (AttributeError, TypeError, ValueError) as error:
            raise self._damaged(ABOUT, error) from error

    def versions(self, _: int) -> dict[str, str]:
        """Returns the versions of the packages that trained it."""
        return {str(name): str(version) for name, version in dict(self._about['versions']).items()}

    def progress(self, _: int) -> dict[str, Any]:
        """Returns the names of the training classes."""
        return {'classes': self._json(META_CLASSES, ('classes', 'table'))['classes']}

    def meta_table(self, _: int) -> np.ndarray:
        """Returns the meta-class table, int32 [members, classes]."""
        return np.array(self._json(META_CLASSES, ('classes', 'table'))['table'], np.int32)

    def variables(self, _: int, abstract: dict[str, Any]) -> dict[str, Any]:
        """Returns parameters and statistics, laid out as `abstract` says."""
        try:
            arrays = load_file(self.folder / WEIGHTS)
        except (OSError, SafetensorError, ValueError) as error:
            raise self._damaged(WEIGHTS, error) from error
        wanted = traverse_util.flatten_dict(abstract, sep='/')
        shapes = {name: (x.shape, np.dtype(x.dtype)) for name, x in wanted.items()}
        if shapes != {name: (x.shape, x.dtype) for name, x in arrays.items()}:
            raise self._damaged(WEIGHTS, 'its arrays are not those of the config')
        placed = traverse_util.unflatten_dict(
            {
                name: jax.make_array_from_callback(x.shape, wanted[name].sharding, x.__getitem__)
                for name, x in arrays.items()
            },
            sep='/',
        )
        if checksums.of_arrays(placed) != self._about['checksums']:
            raise self._damaged(WEIGHTS, 'its checksum is wrong')
        return placed

    def close(self) -> None:
        """Does nothing: no file is open."""

    def _json(self, name: str, fields: tuple[str, ...]) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / name).read_text())
            if missing := [field for field in fields if field not in found]:
                raise ValueError(f'{missing[0]} is missing')
            return found
        except (OSError, RecursionError, TypeError, ValueError) as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, why: object) -> UserError:
        return UserError(f'{self.folder / name} cannot be read ({printable(why)}); fetch it again')


def _write_json(path: Path, value: object) -> None:
    with files.atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + '\n')
