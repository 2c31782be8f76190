"""Checkpoints of a run. The only file that touches orbax."""

from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from sreml_jax import config as configs
from sreml_jax.errors import UserError
from sreml_jax.learning.step import TrainState

STATE, META_CLASSES, CONFIG = 'state', 'meta_classes', 'config'


class Checkpoints:
    """The checkpoints under one workdir: state, meta-class table and config, moved into place when whole.

    Args:
      workdir: of the run; checkpoints lie in its folder 'checkpoints'.
      kept: the newest so many stay.
      read_only: nothing is created or cleaned up.
    """

    def __init__(self, workdir: Path, kept: int = 1, read_only: bool = False):
        self.folder = workdir.resolve() / 'checkpoints'
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.LatestN(kept),
            read_only=read_only,
            create=not read_only,
        )
        self._manager = ocp.CheckpointManager(
            self.folder, options=options, item_names=(STATE, META_CLASSES, CONFIG)
        )

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, meta_table: np.ndarray, config: ConfigDict) -> None:
        """Saves in the background; a step that is there already is not saved again."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{
                    STATE: ocp.args.PyTreeSave(dict(vars(state))),
                    META_CLASSES: ocp.args.StandardSave({'table': meta_table}),
                    CONFIG: ocp.args.JsonSave(config.to_dict()),
                }
            ),
            force=True,
        )

    def wait(self) -> None:
        """Returns when what was saved lies on the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and gives up the manager's threads."""
        self._manager.close()

    def config(self, step: int) -> ConfigDict:
        """Returns the config that the checkpoint was saved with."""
        return configs.restore(self._item(step, CONFIG, ocp.args.JsonRestore()))

    def meta_table(self, step: int) -> np.ndarray:
        """Returns the meta-class table, int32 [members, classes]."""
        return np.asarray(self._item(step, META_CLASSES, ocp.args.StandardRestore())['table'])

    def state(self, step: int, abstract: TrainState) -> TrainState:
        """Returns the state, laid out as the shardings of `abstract` say, whatever mesh saved it."""
        return TrainState(**self._part(step, dict(vars(abstract))))

    def variables(self, step: int, abstract: TrainState) -> dict[str, Any]:
        """Returns parameters and statistics alone, laid out likewise: evaluation needs no moments of Adam."""
        return self._part(step, abstract.variables)

    def _part(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
        restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
        args = ocp.args.PyTreeRestore(abstract, restore_args=restore_args, partial_restore=True)
        return self._item(step, STATE, args)

    def _item(self, step: int, name: str, args: Any) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**{name: args}))[name]


def newest(workdir: Path) -> tuple[Checkpoints, int]:
    """Returns the checkpoints of `workdir`, to read only, and the newest one's step."""
    if (workdir / 'checkpoints').is_dir():
        checkpoints = Checkpoints(workdir, read_only=True)
        if steps := checkpoints.steps():
            return checkpoints, steps[-1]
    raise UserError(f'{workdir} holds no checkpoint; train first, or name the --workdir of a run')


def newest_config(workdir: Path) -> ConfigDict:
    """Returns the config that the newest checkpoint of `workdir` was saved with."""
    checkpoints, step = newest(workdir)
    return checkpoints.config(step)
