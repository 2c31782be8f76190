"""Training: resume, loop, log, checkpoint."""

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from sreml_jax import config as configs
from sreml_jax import heap, hosts, versions
from sreml_jax import mesh as meshes
from sreml_jax.checkpoint import Checkpoints
from sreml_jax.data import ahead, machine
from sreml_jax.data.dataset import Batch, Dataset
from sreml_jax.describe import device_memory
from sreml_jax.epochs import Epochs
from sreml_jax.errors import UserError
from sreml_jax.journal import Journal
from sreml_jax.learning import meta_classes, optimizer, step
from sreml_jax.model import pretrained
from sreml_jax.run import Run
from sreml_jax.signals import Signals

log = logging.getLogger(__name__)


def train(config: ConfigDict, workdir: Path, dataset: Dataset, signals: Signals) -> None:
    """Trains to the end of the last epoch, from the newest checkpoint in `workdir` if there is one.

    Raises:
      UserError: the dataset, the devices or the checkpoint do not suit the config.
      RunError: numbers that are not finite, data that stall, a last state that can not be saved; what was
        saved before stays.
      SystemExit: a signal asked to stop; the state is saved.
    """
    check_dataset(config, dataset)
    config = configs.with_colours(config, dataset.mean, dataset.std)
    run = Run.of(config)
    steps_per_epoch = dataset.steps_per_epoch(config.batch_size)
    schedule = optimizer.schedule(config, steps_per_epoch)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{workdir} can not be made ({error.strerror}); take another --workdir') from error
    checkpoints = Checkpoints(workdir, config.checkpoints_kept)
    state, table, place = start(run, run.adam(steps_per_epoch), checkpoints, dataset, workdir)
    first = int(state.step)
    epochs = Epochs.going_on(config.num_epochs, steps_per_epoch, first, place)
    if (before := place.get('steps_per_epoch', epochs.steps)) != epochs.steps:
        share = epochs.done(first) / epochs.steps
        log.info('an epoch had %d steps, and has %d from here on; %.2f are done', before, epochs.steps, share)
    if first >= epochs.last:
        log.info('%s is trained to the end (step %d): nothing to do but to evaluate', workdir, first)
        checkpoints.close()
        return

    rate = epochs.shifted(schedule)
    train_step = step.make_train_step(
        run.model,
        optimizer.adam(rate),
        run.mesh,
        dataset.mean,
        dataset.std,
        label_smoothing=config.label_smoothing,
        skip_nonfinite=bool(config.skip_nonfinite),
    )
    meta_table = meshes.put_whole(run.mesh, meshes.META_TABLE, table)
    batches = dataset.train_batches(
        config.batch_size,
        config.num_epochs,
        config.seed,
        epochs.done(first),
        meshes.local_rows(run.mesh, config.batch_size),
    )
    journal = Journal(config, workdir, first, epochs, rate, place.get('skipped', 0))

    def place_now():
        return {
            'steps_per_epoch': epochs.steps,
            'offset': epochs.offset,
            'skipped': journal.skipped,
            'classes': dataset.train_classes,
        }

    saved = time.monotonic()
    holes = heap.Holes()
    pending, ahead_of_metrics = None, may_run_ahead(config)
    with closing(checkpoints), closing(journal), signals.held():
        for number, (images, labels) in enumerate(on_device(batches, run), first + 1):
            if pending and not ahead_of_metrics:
                journal.tell(*pending)
                pending = None
            state, metrics = train_step(state, images, labels, meta_table)
            holes.give_back()
            if pending:  # step n + 1 runs while step n's metrics are fetched
                journal.tell(*pending)
            pending = number, metrics
            late = time.monotonic() - saved > 60 * config.checkpoint_minutes
            epoch_ends = epochs.ends(number)
            stop, due = hosts.agree(number, epoch_ends, signals.received, late)
            if due or stop or epoch_ends:
                journal.tell(*pending)
                journal.check(number, state)
                pending = None
                checkpoints.save(state, table, config, place_now())
                saved = time.monotonic()
            if stop:
                signals.received = stop
                break
        checkpoints.save_last(state, table, config, place_now())
    signals.leave(f'stopped after step {number} and saved; the same command goes on from there')


def may_run_ahead(config: ConfigDict) -> bool:
    """Whether a step may be queued behind another: on a CPU it starts before that one's memory is free."""
    if jax.default_backend() != 'cpu':
        return True
    plenty = device_memory(config) * jax.local_device_count() < machine.free_memory() / 4
    # All hosts alike: `Journal.tell` may be a collective, whose place among the steps must be the same.
    return bool(hosts.combine(np.array(plenty), np.min))


def start(run: Run, adam, checkpoints: Checkpoints, dataset: Dataset, workdir: Path):
    """Returns (state, meta-class table, place) of the newest checkpoint; fresh ones where there is none."""
    config = run.config
    if not checkpoints.steps():
        table = meta_classes.draw(
            dataset.num_classes, config.ensemble_size, config.meta_class_size, config.seed
        )
        weights = pretrained.read(config.weights, run.model)
        return step.initial_state(run.model, adam, run.mesh, config.seed, weights), table, {}
    abstract = run.abstract_state(adam)

    def read(step: int):
        saved = checkpoints.config(step)
        configs.refuse_other_model(saved, config, str(workdir))
        table = checkpoints.meta_table(step)
        if table.shape[1] != dataset.num_classes:
            raise UserError(
                f'{workdir} was trained on {table.shape[1]} classes, but {dataset.name} now has '
                f'{dataset.num_classes}; take another --workdir, or the data it was trained on'
            )
        place, packages = checkpoints.place(step), checkpoints.versions(step)
        for was, now in zip(place.get('classes', ()), dataset.train_classes, strict=False):
            if was != now:
                raise UserError(
                    f'{workdir} was trained on other classes than {dataset.name} now has: where it had '
                    f'{was!r} there is {now!r}; take another --workdir, or the data it was trained on'
                )
        return saved, place, packages, table, checkpoints.state(step, abstract)

    newest, (saved, place, packages, table, state) = checkpoints.newest_whole(read)
    for field, (was, now) in configs.differences(saved, config).items():
        log.info('%s was %r when this run was last saved, and is %r from here on', field, was, now)
    if changed := versions.changed(packages):
        log.info('packages have changed since this run was last saved: %s', changed)
    log.info('going on from step %d', newest)
    return state, table, place


def on_device(batches: Iterator[Batch], run: Run) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Puts batches on the devices, one ahead of the step that takes them."""

    def put(batch: Batch) -> tuple[jax.Array, jax.Array]:
        image, label = (
            meshes.put(run.mesh, meshes.IMAGES, batch[name], run.config.batch_size)
            for name in ('image', 'label')
        )
        return image, label

    following = None
    for batch in ahead.read(batches, run.config.stall_minutes):
        if following is not None:
            yield following
        following = put(batch)
    if following is not None:
        yield following


def check_dataset(config: ConfigDict, dataset: Dataset) -> None:
    """Raises UserError where the training images are too few for the config."""
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
