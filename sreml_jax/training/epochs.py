"""How the steps of a run fall into its epochs, whatever changed when it went on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True)
class Epochs:
    """A run's epochs, each of so many steps. Where their steps change, epochs count, and steps count on.

    Attributes:
      number: of epochs in the whole run.
      steps: of one epoch.
      offset: the step after which the first epoch would have begun, had all had as many steps; 0 where none
        had another number.
    """

    number: int
    steps: int
    offset: int = 0

    @classmethod
    def going_on(cls, number: int, steps: int, step: int, place: Mapping[str, Any]) -> 'Epochs':
        """Returns the epochs of a run that goes on from `step` with the share of them done that was done.

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
