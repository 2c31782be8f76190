"""Maps steps to epochs, also in a run that was resumed with other epochs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class Epochs:
    """A run's epochs and the steps in each.

    If a resumed run has other steps per epoch, its progress is kept in epochs; step numbers keep increasing.

    Attributes:
      number: of epochs in the whole run.
      steps: of one epoch.
      offset: step - offset counts steps of the current length; 0 if the length never changed.
    """

    number: int
    steps: int
    offset: int = 0

    @classmethod
    def going_on(cls, number: int, steps: int, step: int, progress: Mapping[str, Any]) -> 'Epochs':
        """Returns the epochs of a run resumed at `step`, keeping the share of epochs already done.

        If that share is not a whole number of steps, it is rounded down: a part of a batch comes again.

        Args:
          number: of epochs in the whole run.
          steps: of one epoch, from here on.
          step: of the checkpoint.
          progress: saved with the step; {} if the checkpoint has none: then an epoch had as many steps.
        """
        before = cls(number, progress.get('steps_per_epoch', steps), progress.get('offset', 0))
        return cls(number, steps, step - before.done(step) * steps // before.steps)

    @property
    def last(self) -> int:
        """The last step of the run."""
        return self.offset + self.number * self.steps

    def done(self, step: int) -> int:
        """Returns the steps of the current length that the run has done after `step`."""
        return step - self.offset

    def of(self, step: int) -> int:
        """Returns the epoch, from 1, that step number `step` belongs to."""
        return (self.done(step) - 1) // self.steps + 1

    def shifted(self, rate: optax.Schedule) -> optax.Schedule:
        """Returns a schedule over steps of these epochs as one over the run's updates."""
        # Skipped updates are not counted: there may be fewer than `offset`.
        return lambda count: rate(jnp.maximum(count - self.offset, 0)) if self.offset else rate(count)
