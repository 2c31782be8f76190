"""Scalars of a run to metrics.jsonl, TensorBoard and the terminal."""

import contextlib
import json
import logging
import math
from pathlib import Path

from sreml_jax.runtime import files
from sreml_jax.runtime.imports import import_without
from sreml_jax.runtime.progress import ImageProgress
from sreml_jax.training.epochs import Epochs

log = logging.getLogger(__name__)

# tensorboardX imports torch where it is installed, for over a second, to draw what nothing here draws.
SummaryWriter = import_without('torch', 'tensorboardX').SummaryWriter


class Writer:
    """Keeps scalars under `workdir`. While the disk is full, lines of metrics.jsonl wait in memory.

    Args:
      workdir: metrics.jsonl and TensorBoard's files go here.
      first_step: scalars of later steps, written before an interruption, are dropped: they come again.

    Raises:
      RunError: nothing can be written there at all; what was written stays.
    """

    def __init__(self, workdir: Path, first_step: int):
        self._path = workdir / 'metrics.jsonl'
        if self._path.exists():
            keep_until(self._path, first_step)
        board = workdir / 'tensorboard'
        with files.explained(board):
            self._board = SummaryWriter(str(board), purge_step=first_step + 1)
        with files.explained(self._path):
            self._lines = self._path.open('ab', buffering=0)
        self._waiting = b''

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes the scalars of one step; one that is not finite, which JSON does not know, as null."""
        finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
        full = bool(self._waiting)
        line = json.dumps({'step': step, **dict.fromkeys(scalars), **finite}) + '\n'
        self._waiting += line.encode()
        try:
            self._write_waiting()
        except OSError as error:
            if not full:
                log.warning('%s cannot be written (%s); its lines wait', self._path, error.strerror)
        if self._board and not self._board.file_writer.event_writer._worker.is_alive():
            log.warning('the curves for TensorBoard end before step %d: they cannot be written', step)
            self._board = None  # nobody empties its queue, which blocks when full
        if self._board:
            for name, value in finite.items():
                self._board.add_scalar(name, value, step)

    def _write_waiting(self) -> None:
        while self._waiting:
            self._waiting = self._waiting[self._lines.write(self._waiting) :]

    def close(self) -> None:
        """Writes what waits, and closes the files; what finds no room then is lost."""
        with contextlib.suppress(OSError):
            self._write_waiting()
        self._lines.close()
        if self._board:
            with contextlib.suppress(OSError):
                self._board.close()


def keep_until(path: Path, step: int) -> None:
    """Drops the lines of metrics.jsonl after `step`, and a last line that was cut off."""
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)['step'] <= step:
                kept.append(line + '\n')
        except (KeyError, TypeError, ValueError):
            break
    with files.atomic_write(path) as temporary:
        temporary.write_text(''.join(kept))


class Progress:
    """Shows how far training is, and a running mean of its scalars.

    Args:
      epochs: of the run.
      first_step: steps done before.
      batch_size: images a step.
    """

    def __init__(self, epochs: Epochs, first_step: int, batch_size: int):
        self._epochs, self._first, self._batch = epochs, first_step, batch_size
        self._averages: dict[str, float] = {}
        self._notes: list[str] = []
        self._images = ImageProgress(self._done(epochs.last), self._done(first_step))

    def _done(self, step: int) -> int:
        """Returns how many images the run has seen after `step`, had all batches been of this size."""
        return self._epochs.done(step) * self._batch

    def show(self, step: int, scalars: dict[str, float]) -> None:
        """Shows the state after `step`; what is shown is a running mean over about 50 steps."""
        for name, value in scalars.items():
            before = self._averages.get(name, value)
            self._averages[name] = before + (value - before) / min(50, step - self._first)
        epoch = f'epoch {self._epochs.of(step)}/{self._epochs.number}'
        short, long = (
            sep.join(
                [*(f'{name} {value:.{digits}f}' for name, value in self._averages.items()), *self._notes]
            )
            for sep, digits in ((' ', 3), ('  ', 4))
        )
        line = f'step {step}/{self._epochs.last}  {epoch}  {long}'
        self._images.show(self._done(step), epoch, line, short)

    def say(self, text: str) -> None:
        """Shows what is under way before the first step is done."""
        self._images.say(text)

    def note(self, text: str) -> None:
        """Shows a text beside the scalars from the next step on, in place of the one before."""
        self._notes = [text]

    def close(self) -> None:
        """Ends the bar."""
        self._images.close()
