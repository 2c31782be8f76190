"""What a run tells of its steps: on the terminal, in files, and when its numbers are not finite."""

import math
from pathlib import Path

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from sreml_jax import hosts
from sreml_jax.epochs import Epochs
from sreml_jax.errors import RunError
from sreml_jax.learning import step
from sreml_jax.writer import Progress, Writer

_NAMED = 10  # members that a sentence names at most


class Journal:
    """Tells the metrics of the steps after `first_step`; several hosts tell them once.

    Args:
      config: of the run.
      workdir: metrics.jsonl and TensorBoard's files go here.
      first_step: steps done before.
      epochs: of the run.
      rate: the learning rate, by the updates done.
      skipped: updates of those before that were left out.

    Attributes:
      skipped: updates left out so far, those before `first_step` included.
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
        self._writer = self._progress = None
        if hosts.is_first():
            self._writer = Writer(workdir, first_step)
            self._progress = Progress(epochs, first_step, config.batch_size)

    def tell(self, number: int, metrics: dict[str, jax.Array]) -> None:
        """Waits for the metrics of step `number`, shows and writes them.

        Raises:
          RunError: the loss is not finite, and no more updates may be skipped.
        """
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

    def check(self, number: int, state: step.TrainState) -> None:
        """Raises RunError where the state after step `number`, which is about to be saved, is not finite."""
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
