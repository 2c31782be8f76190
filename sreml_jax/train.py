"""Training: the loop over steps, with its log, its checkpoints and its signals."""

import logging
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from sreml_jax import resume
from sreml_jax.data import held_out, prefetch
from sreml_jax.data.dataset import Batch, Dataset
from sreml_jax.evaluation.validation import Validation
from sreml_jax.run import Run
from sreml_jax.runtime import hosts, sharding
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.signals import Signals
from sreml_jax.training import step
from sreml_jax.training.checkpoint import Checkpoints
from sreml_jax.training.metrics_log import MetricsLog

log = logging.getLogger(__name__)


def train(config: ConfigDict, workdir: Path, dataset: Dataset, signals: Signals) -> None:
    """Trains to the end of the last epoch, from the newest checkpoint in `workdir` if there is one.

    Saves every config.checkpoint_minutes, at the end, and when a signal asks to stop.

    Raises:
      UserError: the dataset, the devices or the checkpoint do not suit the config.
      RunError: numbers are not finite, data stall, or the last state cannot be saved; what was saved before
        stays.
      SystemExit: a signal asked to stop; the state is saved.
    """
    check_dataset(config, dataset)
    run = Run.of(config)
    make_folder(workdir)
    checkpoints = Checkpoints(workdir, config.checkpoints_kept)
    start = resume.start(run, checkpoints, dataset, workdir)
    epochs, state = start.epochs, start.state
    first = int(state.step)
    if first >= epochs.last:
        log.info('%s is trained to the end (step %d): nothing to do but to evaluate', workdir, first)
        checkpoints.close()
        return

    train_step = make_train_step(start)
    meta_table = sharding.put_whole(run.mesh, sharding.META_TABLE, start.meta_table)
    rows = sharding.local_rows(run.mesh, config.batch_size)
    batches = dataset.train_batches(
        config.batch_size, config.num_epochs, config.seed, epochs.done(first), rows
    )
    metrics_log = MetricsLog(config, workdir, first, epochs, start.rate, start.skipped)
    validation = Validation(start, dataset, workdir) if held_out.SPLIT in dataset.labels else None
    saved = time.monotonic()
    with (
        closing(checkpoints),
        closing(metrics_log),
        closing(validation) if validation else nullcontext(),
        signals.held(),
    ):
        for number, (images, labels) in enumerate(on_device(batches, run), first + 1):
            if number == first + 1:
                metrics_log.compiling()
            with signals.ending_at_once() if number == first + 1 else nullcontext():  # it is compiled
                state, metrics = train_step(state, images, labels, meta_table)
            metrics_log.add(number, metrics)
            if validation and validation.due(number):
                validate(validation, metrics_log, number, state)
            # While a save is under way the next one waits, not the step.
            late = time.monotonic() - saved > 60 * config.checkpoint_minutes and not checkpoints.saving
            stop, due = hosts.agree(number, signals.received, late)
            if stop:
                signals.received = stop
                break
            if due:
                metrics_log.check(number, state)
                checkpoints.save(state, *start.saved_with(dataset, metrics_log.skipped))
                saved = time.monotonic()
        metrics_log.check(number, state)
        checkpoints.save_last(state, *start.saved_with(dataset, metrics_log.skipped))
    if validation:
        log.info(
            'the best Recall@1 on the held-out classes was %.2f%%; its checkpoint is kept in %s',
            *(100 * validation.best, validation.folder),
        )
    signals.leave(f'stopped after step {number} and saved; the same command goes on from there')


def validate(validation: Validation, metrics_log: MetricsLog, number: int, state: step.TrainState) -> None:
    """Measures the state after step `number` on the held-out classes; shows it, and keeps the best."""
    metrics_log.check(number, state)
    found = validation.measure(state)
    metrics_log.add_validation(number, found)
    validation.keep(found, state, metrics_log.skipped)


def make_train_step(start: resume.Start) -> step.TrainStep:
    """Returns the jitted step of a run; see `step.make_train_step`."""
    config = start.run.config
    return step.make_train_step(
        start.run.model,
        start.adam,
        start.run.mesh,
        np.asarray(config.mean, np.float32),
        np.asarray(config.std, np.float32),
        label_smoothing=config.label_smoothing,
        skip_nonfinite=bool(config.skip_nonfinite),
    )


def on_device(batches: Iterator[Batch], run: Run) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Yields (images, labels) on the devices, one batch ahead of the step that takes them."""

    def put(batch: Batch) -> tuple[jax.Array, jax.Array]:
        image, label = (
            sharding.put(run.mesh, sharding.IMAGES, batch[name], run.config.batch_size)
            for name in ('image', 'label')
        )
        return image, label

    following = None
    for batch in prefetch.read(batches, run.config.stall_minutes):
        if following is not None:
            yield following
        following = put(batch)
    if following is not None:
        yield following


def make_folder(workdir: Path) -> None:
    """Makes the workdir; raises UserError if that fails."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{workdir} cannot be made ({error.strerror}); take another --workdir') from error


def check_dataset(config: ConfigDict, dataset: Dataset) -> None:
    """Raises UserError if the training images are too few for the config."""
    if dataset.num_classes < 2:
        raise UserError(
            f'{dataset.name} has one training class, and training needs two or more; add classes, or set '
            'config.train_fraction to a larger share'
        )
    if dataset.num_classes < config.meta_class_size:
        raise UserError(
            f'{dataset.name} has {dataset.num_classes} training classes, fewer than '
            f'config.meta_class_size={config.meta_class_size}; set that to {dataset.num_classes} or less'
        )
    if not dataset.steps_per_epoch(config.batch_size):
        raise UserError(
            f'config.batch_size={config.batch_size} is larger than the {len(dataset.labels["train"])} '
            f'training images of {dataset.name}; set it to that number or less'
        )
