"""Shows and writes the metrics of a run's steps, and stops a run whose loss or state is not finite."""

import math
from pathlib import Path

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from sreml_jax.runtime import hosts
from sreml_jax.runtime.errors import RunError
from sreml_jax.training import step
from sreml_jax.training.epochs import Epochs
from sreml_jax.training.writer import Progress, Writer

_NAMED = 10  # the most members that a sentence names


class MetricsLog:
    """Shows and writes the metrics of the steps after `first_step`; of several hosts, the first one does.

    On an accelerator, step n + 1 runs while step n's metrics are fetched. On a CPU, a queued step would take
    memory before the step ahead of it has freed its own: the log waits for each step.

    Args:
      config: of the run.
      workdir: metrics.jsonl and TensorBoard's files go here.
      first_step: steps done before.
      epochs: of the run.
      rate: the learning rate, by the updates done.
      skipped: updates that were skipped before `first_step`.

    Attributes:
      skipped: updates skipped so far, those before `first_step` included.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        first_step: int,
        epochs: Epochs,
        rate: optax.Schedule,
        skipped: int = 0,
    ):
        self._config, self._last, self._rate = config, epochs.last, rate
        self.skipped = skipped
        self._pending: tuple[int, dict[str, jax.Array]] | None = None
        self._behind = jax.default_backend() != 'cpu'
        self._writer = self._progress = None
        if hosts.is_first():
            self._writer = Writer(workdir, first_step)
            self._progress = Progress(epochs, first_step, config.batch_size)

    def add(self, number: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of step `number`; shows and writes those of the step before it.

        Raises:
          RunError: see `flush`.
        """
        self.flush()
        self._pending = number, metrics
        if not self._behind:
            self.flush()

    def flush(self) -> None:
        """Waits for the metrics that were added last, shows and writes them.

        Raises:
          RunError: the loss is not finite, and no more updates may be skipped.
        """
        if not self._pending:
            return
        (number, metrics), self._pending = self._pending, None
        scalars = {name: float(metrics[name]) for name in ('loss', 'accuracy')}
        skipped = bool(metrics['skipped'])
        allowed = skipped and self.skipped < self._config.skip_nonfinite
        if not allowed and (skipped or not math.isfinite(scalars['loss'])):
            losses = multihost_utils.process_allgather(metrics['member_losses'], tiled=True)
            raise RunError(self._not_finite(f'the loss or gradient of step {number}', number, losses))
        self.skipped += skipped
        if not self._writer or not self._progress:
            return
        self._progress.show(number, scalars)
        if skipped or number % self._config.log_every == 0 or number == self._last:
            rates = {'learning_rate': float(self._rate(number - 1))}
            self._writer.write(number, {**scalars, **rates, **({'skipped': 1.0} if skipped else {})})

    def compiling(self) -> None:
        """Shows that the first step is compiled; neither rate nor time left counts that."""
        if self._progress:
            self._progress.say('XLA compiles the training step, which can take minutes')

    def add_validation(self, number: int, recall: float) -> None:
        """Shows and writes the Recall@1 (0..1) on the held-out classes after step `number`."""
        self.flush()
        if self._writer and self._progress:
            self._progress.note(f'R@1 {100 * recall:.1f}%')
            self._writer.write(number, {'validation_recall': recall})

    def check(self, number: int, state: step.TrainState) -> None:
        """Flushes, and raises RunError if the state after step `number`, to be saved now, is not finite."""
        self.flush()
        trunk, members = step.finite_parts(state)
        if trunk & members.all():
            return
        members = multihost_utils.process_allgather(members, tiled=True)
        what = 'the members' if trunk else 'the trunk'
        raise RunError(
            self._not_finite(f'{what} after step {number}', number, np.where(members, 0.0, np.nan))
        )

    def _not_finite(self, what: str, number: int, values: np.ndarray) -> str:
        concerned = np.flatnonzero(~np.isfinite(values))
        names = ', '.join(map(str, concerned[:_NAMED])) + (', ...' if len(concerned) > _NAMED else '')
        skipped = f', {self.skipped} updates were skipped before' if self.skipped else ''
        return (
            f'{what} is not finite (members: {names or "none alone"}; learning rate '
            f'{float(self._rate(number - 1)):.3g}{skipped}); it was not saved: lower config.learning_rate or '
            'set config.skip_nonfinite, and the same command goes on from the newest checkpoint'
        )

    def close(self) -> None:
        """Ends the progress bar and closes the files."""
        if self._writer and self._progress:
            self._progress.close()
            self._writer.close()
