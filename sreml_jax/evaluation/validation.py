"""Recall@1 on the held-out training classes while a run trains, and the checkpoint that was best on them."""

from pathlib import Path

import numpy as np

from sreml_jax.data import held_out
from sreml_jax.data.dataset import Dataset
from sreml_jax.embedder import embed_split
from sreml_jax.resume import Start
from sreml_jax.retrieval import recall
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.training import step
from sreml_jax.training.checkpoint import Checkpoints
from sreml_jax.training.step import TrainState

FOLDER = 'best'  # in the workdir; it is a workdir too, for every mode that reads a run
_RECALL = 'validation_recall'  # in the progress of a checkpoint


class Validation:
    """Measures a state on the held-out classes of a dataset, and keeps the best one's checkpoint.

    All hosts must make the same calls.

    Args:
      start: of the run.
      dataset: with the split `held_out.SPLIT`.
      workdir: of the run.

    Attributes:
      best: the highest recall so far, in 0..1, also from before a resume; -1 if there is none yet.
    """

    def __init__(self, start: Start, dataset: Dataset, workdir: Path):
        self._start, self._dataset = start, dataset
        config = start.run.config
        mean, std = np.asarray(config.mean, np.float32), np.asarray(config.std, np.float32)
        self._embed = step.make_embed_step(start.run.model, start.run.mesh, mean, std)
        self.folder = workdir / FOLDER
        self._checkpoints, self.best = Checkpoints(self.folder), -1.0
        if self._checkpoints.steps():
            _, progress = self._checkpoints.newest_whole(self._checkpoints.progress)
            self.best = float(progress.get(_RECALL, -1.0))

    def due(self, number: int) -> bool:
        """Whether step `number` ends config.validation_epochs epochs, or the run."""
        epochs = self._start.epochs
        every = self._start.run.config.validation_epochs * epochs.steps
        return number == epochs.last or epochs.done(number) % every == 0

    def measure(self, state: TrainState) -> float:
        """Returns Recall@1 of the held-out images, each of which queries all the others."""
        run, labels = self._start.run, self._dataset.labels[held_out.SPLIT]
        embeddings = embed_split(
            lambda images: self._embed(state.variables, images),
            run,
            self._dataset,
            held_out.SPLIT,
            run.model.dimensions,
        )
        devices = list(run.mesh.local_devices)
        ranks = recall.ranks(embeddings, embeddings, Protocol(labels, labels, True), devices=devices)
        return recall.recall_at(ranks, [1])[1]

    def keep(self, found: float, state: TrainState, skipped: int) -> None:
        """Saves the state, in the background, if its recall `found` is the greatest so far."""
        if found <= self.best:
            return
        self.best = found
        table, config, progress = self._start.saved_with(self._dataset, skipped)
        self._checkpoints.discard(int(state.step))  # before a resume, this step had a worse state
        self._checkpoints.save(state, table, config, progress | {_RECALL: found})

    def close(self) -> None:
        """Returns when the best checkpoint lies on the disk."""
        self._checkpoints.close()
