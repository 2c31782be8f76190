"""The checkpoints of a run: saves in the background, picks the newest whole one, sets damaged ones aside.

`checkpoint_items` restores what is in one.
"""

import contextlib
import itertools
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from sreml_jax.runtime import hosts, versions
from sreml_jax.runtime.errors import RunError, UserError
from sreml_jax.training import checkpoint_errors, checksums, published
from sreml_jax.training.checkpoint_items import (
    CHECKSUMS,
    CONFIG,
    FORMAT,
    META_CLASSES,
    OTHER_FAULTS,
    PROGRESS,
    STATE,
    VERSIONS,
    CheckpointItems,
    Damaged,
    in_any_process,
)
from sreml_jax.training.published import Published
from sreml_jax.training.step import TrainState

log = logging.getLogger(__name__)
T = TypeVar('T')

LAST_TRIES = (0, 1, 2, 4, 8)  # seconds before each try to save the last state of a run


class Checkpoints(CheckpointItems):
    """The checkpoints under one workdir: state, meta-class table, config, progress, package versions.

    orbax moves them into place when complete; every read compares them with their checksums. All hosts must
    make the same calls.

    Args:
      workdir: of the run; checkpoints lie in its folder 'checkpoints'.
      kept: number of the newest that stay.
      read_only: create, move and clean up nothing.
    """

    def __init__(self, workdir: Path, kept: int = 1, read_only: bool = False):
        super().__init__(workdir.resolve() / 'checkpoints')
        self._kept, self._read_only = kept, read_only
        self._pending: int | None = None  # the step whose save is under way
        checkpoint_errors.hush()
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        if not self._read_only and hosts.is_first():
            self._clean_up()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.LatestN(self._kept),
            read_only=self._read_only,
            create=not self._read_only,
            lightweight_initialize=True,
            single_host_load_and_broadcast=True,
        )
        return ocp.CheckpointManager(
            self.folder,
            options=options,
            item_names=(STATE, META_CLASSES, CONFIG, PROGRESS, VERSIONS, CHECKSUMS),
        )

    def _clean_up(self) -> None:
        """Removes what killed or failed saves left behind."""
        for _ in range(20):  # a save that failed just now may still be writing
            leftovers = list(self.folder.glob('*' + ocp.utils.TMP_DIR_SUFFIX + '*'))
            if not leftovers:
                return
            for leftover in leftovers:
                shutil.rmtree(leftover, ignore_errors=True)
            time.sleep(0.1)

    def _reopen(self) -> None:
        """Opens a new manager: after a failure, the old one forgets checkpoints and repeats errors."""
        with contextlib.suppress(Exception):
            self._manager.close()
        self._manager = self._open()

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints, ascending."""
        return sorted(map(int, self._manager.all_steps()))

    @property
    def saving(self) -> bool:
        """Whether a save is still under way in the background."""
        return self._pending is not None and self._manager.is_saving_in_progress()

    def save(
        self, state: TrainState, meta_table: np.ndarray, config: ConfigDict, progress: dict[str, Any]
    ) -> None:
        """Saves in the background, once the save before it has ended; does nothing if the step is saved.

        If the save fails, for example on a full disk, a warning says so, at the latest with the next save.
        The earlier checkpoints stay.

        progress: JSON dict: steps_per_epoch, offset, skipped updates, training classes.
        """
        self.wait()
        step = int(state.step)
        if step in self.steps():
            return
        arrays = state.saved
        plain = {CONFIG: config.to_dict(), PROGRESS: progress, VERSIONS: versions.installed() | FORMAT}
        sums = checksums.of_arrays(arrays) | {name: checksums.of_json(item) for name, item in plain.items()}
        sums[META_CLASSES] = checksums.of_json(meta_table.tolist())
        items = {
            STATE: ocp.args.PyTreeSave(arrays),
            META_CLASSES: ocp.args.StandardSave({'table': meta_table}),
            **{name: ocp.args.JsonSave(item) for name, item in (plain | {CHECKSUMS: sums}).items()},
        }
        self._pending = step
        with self._failing():
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def discard(self, step: int) -> None:
        """Deletes the checkpoint of a step, if there is one."""
        self.wait()
        if step in self.steps():
            self._manager.delete(step)

    def wait(self) -> None:
        """Waits until the pending save is on the disk; warns if it failed."""
        if self._pending is not None:
            with self._failing():
                self._manager.wait_until_finished()
            self._pending = None

    @contextlib.contextmanager
    def _failing(self):
        """Turns an error of the pending save, in any process, into a warning."""
        error = None
        try:
            yield
        except OTHER_FAULTS:
            raise
        except Exception as caught:  # orbax and tensorstore raise many kinds
            error = caught
        if in_any_process(error is not None):
            free = shutil.disk_usage(self.folder).free / 1e9
            _warn(
                'the checkpoint of step %d could not be saved (%s; %.1f GB are free in %s); earlier ones '
                'are intact, and the next save is tried when it is due',
                *(self._pending, checkpoint_errors.reason(error), free, self.folder),
            )
            self._pending = None
            self._reopen()

    def save_last(
        self, state: TrainState, meta_table: np.ndarray, config: ConfigDict, progress: dict[str, Any]
    ) -> None:
        """Waits until `state` is on the disk, trying several times; see `save` for the arguments.

        Raises:
          RunError: it could not be saved.
        """
        for seconds in LAST_TRIES:
            time.sleep(seconds)
            self.save(state, meta_table, config, progress)
            self.wait()
            if int(state.step) in self.steps():
                return
        before = f'step {self.steps()[-1]}' if self.steps() else 'the start'
        raise RunError(
            f'the last checkpoint, of step {int(state.step)}, could not be saved in {self.folder}; make room '
            f'there, and the same command goes on from {before}'
        )

    def close(self) -> None:
        """Waits, and ends the manager's threads."""
        self.wait()
        self._manager.close()

    def newest_whole(self, read: Callable[[int], T]) -> tuple[int, T]:
        """Returns the step of the newest whole checkpoint, and what `read(step)` returns of it.

        `read` calls the methods of `CheckpointItems`, `config` first. It may refuse what it finds by a
        UserError: a checkpoint of another model is not damaged. Damaged checkpoints are moved to
        <workdir>/checkpoints_damaged, unless all are damaged or this is read only.

        Raises:
          UserError: no checkpoint can be read.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                found = read(step)
            except Damaged as error:
                damaged[step] = str(error)
                continue
            self._set_aside(damaged, step)
            return step, found
        reasons = ', '.join(f'step {step}: {reason}' for step, reason in damaged.items())
        raise UserError(
            f'no checkpoint in {self.folder} can be read ({reasons}); put a whole copy there, or take '
            'another --workdir'
        )

    def _set_aside(self, damaged: dict[int, str], used: int) -> None:
        for step, reason in damaged.items():
            moved = ''
            if not self._read_only:
                aside = self.folder.with_name('checkpoints_damaged')
                if hosts.is_first():
                    aside.mkdir(exist_ok=True)
                    names = itertools.chain([str(step)], (f'{step}-{i}' for i in itertools.count(2)))
                    free = next(aside / name for name in names if not (aside / name).exists())
                    (self.folder / str(step)).rename(free)
                moved = f' and is moved to {aside}'
            _warn(
                'the checkpoint of step %d cannot be read (%s)%s; that of step %d is used instead',
                *(step, reason, moved, used),
            )
        if damaged and not self._read_only:
            multihost_utils.sync_global_devices('damaged checkpoints are set aside')
            self._reopen()


def newest(workdir: Path) -> tuple[Checkpoints | Published, int]:
    """Returns the checkpoints of `workdir`, or a published run, to read only, and the newest one's step."""
    if (workdir / 'checkpoints').is_dir():
        checkpoints = Checkpoints(workdir, read_only=True)
        if steps := checkpoints.steps():
            return checkpoints, steps[-1]
    if published.is_there(workdir):
        found = Published(workdir)
        return found, found.steps()[-1]
    raise UserError(f'{workdir} holds no checkpoint; train first, or name the --workdir of a run')


def newest_config(workdir: Path) -> ConfigDict:
    """Returns the config that the newest whole checkpoint of `workdir` was saved with."""
    checkpoints, _ = newest(workdir)
    return checkpoints.newest_whole(checkpoints.config)[1]


def _warn(message: str, *args: Any) -> None:
    if hosts.is_first():
        log.warning(message, *args)
