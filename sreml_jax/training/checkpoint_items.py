"""One checkpoint on disk: its items, each compared with its checksum when it is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from sreml_jax.training import checkpoint_errors, checksums, saved_config
from sreml_jax.training.step import TrainState

T = TypeVar('T')

STATE, META_CLASSES, CONFIG, VERSIONS = 'state', 'meta_classes', 'config', 'versions'
CHECKSUMS = 'checksums'  # checkpoints have them since format 2, which VERSIONS names
FORMAT = {'checkpoint': '2'}
PROGRESS = 'place'  # its name on disk since the first checkpoints
# Not the disk's fault: no memory, or another process that died.
OTHER_FAULTS = (MemoryError, jax.errors.JaxRuntimeError)


class Damaged(Exception):
    """An item of a checkpoint cannot be read, in this process or another, or is not what was saved."""


class CheckpointItems:
    """Reads the items of the checkpoints in a folder. Several hosts must call every method alike.

    Args:
      folder: holds a folder for each step.

    Raises:
      Damaged: an item cannot be read, or is not what was saved.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def config(self, step: int) -> ConfigDict:
        """Returns the config that the checkpoint was saved with."""
        return self._understood(CONFIG, lambda: saved_config.restore(self._json(step, CONFIG)))

    def progress(self, step: int) -> dict[str, Any]:
        """Returns the progress that the checkpoint was saved with; {} if it is older than progress is."""
        return self._understood(PROGRESS, lambda: _progress(self._later_json(step, PROGRESS)))

    def versions(self, step: int) -> dict[str, str]:
        """Returns the versions of the packages that saved the checkpoint; {} if it does not say."""
        found = self._later_json(step, VERSIONS)
        return {name: str(version) for name, version in found.items() if name not in FORMAT}

    def meta_table(self, step: int) -> np.ndarray:
        """Returns the meta-class table, int32 [members, classes]."""
        args = ocp.args.StandardRestore()
        table = np.asarray(self._item(step, META_CLASSES, ocp.StandardCheckpointHandler(), args)['table'])
        self._compare(step, {META_CLASSES: checksums.of_json(table.tolist())})
        return table

    def state(self, step: int, abstract: TrainState) -> TrainState:
        """Returns the state, laid out as the shardings of `abstract` say, whatever mesh saved it.

        It lacks what is not saved; see `step.complete`.
        """
        return TrainState(**self._arrays(step, abstract.saved))

    def variables(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
        """Returns parameters and statistics, without Adam's moments, laid out as `abstract` says."""
        return self._arrays(step, abstract)

    def _arrays(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
        restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
        args = ocp.args.PyTreeRestore(abstract, restore_args=restore_args, partial_restore=True)
        arrays = self._item(step, STATE, ocp.PyTreeCheckpointHandler(), args)
        self._compare(step, lambda: checksums.of_arrays(arrays))
        return arrays

    def _later_json(self, step: int, name: str) -> dict[str, Any]:
        """Returns an item, or {} if the checkpoint is older than the item."""
        if self._has(step, name) or self._has(step, CHECKSUMS):
            return self._json(step, name)
        return {}

    def _json(self, step: int, name: str) -> dict[str, Any]:
        found = self._item(step, name, ocp.JsonCheckpointHandler(), ocp.args.JsonRestore())
        if not isinstance(found, dict):
            raise Damaged(f'{name}: it is a {type(found).__name__}')
        if name != CHECKSUMS:
            self._compare(step, {name: checksums.of_json(found)})
        return found

    def _compare(self, step: int, found: dict[str, int] | Callable[[], dict[str, int]]) -> None:
        """Raises Damaged if one of these checksums is not the saved one; older checkpoints have none."""
        if not self._has(step, CHECKSUMS):
            if self._has(step, VERSIONS) and FORMAT.keys() <= self._versions_of_format(step):
                raise Damaged(f'{CHECKSUMS}: they are gone')
            return
        saved = self._json(step, CHECKSUMS)
        found = found() if callable(found) else found
        if changed := [name for name, value in found.items() if saved.get(name) != value]:
            more = f' and {len(changed) - 1} more' if len(changed) > 1 else ''
            raise Damaged(f'{changed[0]}{more}: not what was saved')

    def _versions_of_format(self, step: int) -> set[str]:
        return set(self._item(step, VERSIONS, ocp.JsonCheckpointHandler(), ocp.args.JsonRestore()))

    def _has(self, step: int, name: str) -> bool:
        return not in_any_process(not (self.folder / str(step) / name).exists())

    def _understood(self, name: str, read: Callable[[], T]) -> T:
        """Returns what `read` returns; content that it cannot parse is damage."""
        try:
            return read()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Damaged(f'{name}: {checkpoint_errors.reason(error)}') from error

    def _item(self, step: int, name: str, handler: ocp.CheckpointHandler, args: Any) -> Any:
        # The handler, not the manager: that one makes processes wait for one whose read has failed.
        item, error = None, None
        try:
            item = handler.restore(self.folder / str(step) / name, args=args)
        except OTHER_FAULTS:
            raise
        except Exception as caught:  # a damaged file can raise nearly all kinds
            error = caught
        if in_any_process(error is not None):
            raise Damaged(f'{name}: {checkpoint_errors.reason(error)}') from error
        return item


def _progress(found: dict[str, Any]) -> dict[str, Any]:
    """Returns the progress; raises ValueError if a part of it has another type than `save` takes."""
    numbers, classes = ('steps_per_epoch', 'offset', 'skipped'), found.get('classes', [])
    if any(type(found.get(name, 0)) is not int for name in numbers) or found.get('steps_per_epoch', 1) < 1:
        raise ValueError('its numbers are not integers')
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError('its classes are not a list of names')
    return found


def in_any_process(failed: bool) -> bool:
    """Returns whether something failed in this process or in another one of the run."""
    return bool(np.any(multihost_utils.process_allgather(np.asarray(failed))))
