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
    def going_on(cls, number: int, steps: int, step: int, place: Mapping[str, Any]) -> 'Epochs':
        """Returns the epochs of a run resumed at `step`, keeping the share of epochs already done.

        Where that share is no whole number of steps, it is rounded down: a part of a batch comes again.

        Args:
          number: of epochs in the whole run.
          steps: of one epoch, from here on.
          step: that was saved.
          place: what was saved with it, {} where nothing was: then an epoch had as many steps.
        """
        before = cls(number, place.get('steps_per_epoch', steps), place.get('offset', 0))
        return cls(number, steps, step - before.done(step) * steps // before.steps)

    @property
    def last(self) -> int:
        """The last step of the run."""
        return self.offset + self.number * self.steps

    def done(self, step: int) -> int:
        """Returns how many steps as long as these the run has done after `step`."""
        return step - self.offset

    def of(self, step: int) -> int:
        """Returns the epoch, from 1, that step number `step` belongs to."""
        return (self.done(step) - 1) // self.steps + 1

    def shifted(self, rate: optax.Schedule) -> optax.Schedule:
        """Returns a schedule over steps of these epochs as one over the run's updates."""
        # Updates that were left out are not counted: there may be fewer than `offset`.
        return lambda count: rate(jnp.maximum(count - self.offset, 0)) if self.offset else rate(count)
