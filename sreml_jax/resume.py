"""Where training starts: at the newest checkpoint of a workdir, or afresh."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax
from ml_collections import ConfigDict

from sreml_jax.data.dataset import Dataset
from sreml_jax.model.weights import torchvision
from sreml_jax.run import Run
from sreml_jax.runtime import versions
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import quoted
from sreml_jax.training import meta_classes, optimizer, saved_config, step
from sreml_jax.training.checkpoint import Checkpoints
from sreml_jax.training.epochs import Epochs

log = logging.getLogger(__name__)


class Start(NamedTuple):
    """All that the training loop begins with.

    Attributes:
      run: mesh and model of the config, whose mean and std are set.
      epochs: maps steps to epochs.
      rate: learning rate by the number of updates.
      adam: the optimizer with this rate.
      state: of the training, on the devices.
      meta_table: int32 [members, classes].
      skipped: updates that were skipped before.
    """

    run: Run
    epochs: Epochs
    rate: optax.Schedule
    adam: optax.GradientTransformation
    state: step.TrainState
    meta_table: np.ndarray
    skipped: int

    def saved_with(self, dataset: Dataset, skipped: int) -> tuple[np.ndarray, ConfigDict, dict[str, Any]]:
        """Returns what a checkpoint holds beside the state: meta-class table, config and progress."""
        progress = {
            'steps_per_epoch': self.epochs.steps,
            'offset': self.epochs.offset,
            'skipped': skipped,
            'classes': dataset.train_classes,
        }
        return self.meta_table, self.run.config, progress


def start(run: Run, checkpoints: Checkpoints, dataset: Dataset, workdir: Path) -> Start:
    """Restores the newest checkpoint, or draws a fresh state if there is none.

    Raises:
      UserError: the checkpoint is another model's, or was trained on other classes.
    """
    if not checkpoints.steps():
        own = run.config
        return _fresh(run.normalized_by(own.mean or dataset.mean, own.std or dataset.std), dataset)

    def read(step: int) -> tuple[ConfigDict, dict[str, str], Start]:
        saved, progress = checkpoints.config(step), checkpoints.progress(step)
        saved_config.refuse_other_model(saved, run.config, str(workdir))
        table = checkpoints.meta_table(step)
        _refuse_other_classes(workdir, dataset, table.shape[1], progress.get('classes', ()))
        # Normalization belongs to the checkpoint: the command line does not change it.
        own = run.normalized_by(saved.mean or dataset.mean, saved.std or dataset.std)
        return saved, checkpoints.versions(step), _resumed(own, checkpoints, step, progress, dataset, table)

    newest, (saved, packages, resumed) = checkpoints.newest_whole(read)
    for field, (was, now) in saved_config.differences(saved, resumed.run.config).items():
        values = quoted(was), quoted(now)
        log.info('%s was %s when this run was last saved, and is %s from here on', field, *values)
    if changed := versions.changed(packages):
        log.info('packages have changed since this run was last saved: %s', changed)
    before = checkpoints.progress(newest).get('steps_per_epoch', resumed.epochs.steps)
    if before != resumed.epochs.steps:
        share = resumed.epochs.done(newest) / resumed.epochs.steps
        log.info(
            'an epoch had %d steps and has %d from here on; %.2f epochs are done',
            *(before, resumed.epochs.steps, share),
        )
    log.info('going on from step %d', newest)
    return resumed


def _fresh(run: Run, dataset: Dataset) -> Start:
    config = run.config
    epochs = Epochs(config.num_epochs, dataset.steps_per_epoch(config.batch_size))
    rate, adam = _optimizer(config, epochs)
    table = meta_classes.draw(dataset.num_classes, config.ensemble_size, config.meta_class_size, config.seed)
    weights = torchvision.read(config.weights, run.model)
    if weights:
        log.info('every member starts from config.weights=%s; the classifiers are drawn', config.weights)
    state = step.initial_state(run.model, adam, run.mesh, config.seed, weights)
    return Start(run, epochs, rate, adam, state, table, 0)


def _resumed(
    run: Run,
    checkpoints: Checkpoints,
    number: int,
    progress: dict[str, Any],
    dataset: Dataset,
    table: np.ndarray,
) -> Start:
    """Returns the start at the checkpoint of step `number`."""
    steps = dataset.steps_per_epoch(run.config.batch_size)
    epochs = Epochs.going_on(run.config.num_epochs, steps, number, progress)
    rate, adam = _optimizer(run.config, epochs)
    saved = checkpoints.state(number, step.abstract_state(run.model, adam, run.mesh))
    state = step.complete(saved, run.model)
    return Start(run, epochs, rate, adam, state, table, progress.get('skipped', 0))


def _optimizer(config: ConfigDict, epochs: Epochs) -> tuple[optax.Schedule, optax.GradientTransformation]:
    rate = epochs.shifted(optimizer.schedule(config, epochs.steps))
    return rate, optimizer.adam(rate)


def _refuse_other_classes(workdir: Path, dataset: Dataset, number: int, names: list[str]) -> None:
    """Raises UserError if the checkpoint was trained on other classes than the dataset has."""
    if number != dataset.num_classes:
        raise UserError(
            f'{workdir} was trained on {number} classes, but {dataset.name} now has '
            f'{dataset.num_classes}; take another --workdir, or the data it was trained on'
        )
    for was, now in zip(names, dataset.train_classes, strict=False):
        if was != now:
            raise UserError(
                f'{workdir} was trained on other classes than {dataset.name} now has: where it had '
                f'{quoted(was)} there is {quoted(now)}; take another --workdir, or the data it was trained on'
            )
