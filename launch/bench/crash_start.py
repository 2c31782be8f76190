"""One start of the program that the crash test kills, and what can be seen of it from outside."""

import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

PATIENCE = 600  # seconds after which a start is given up
LOOK = 0.001  # seconds between two looks at a start
FIELDS = {
    'image_size': 8,
    'weights': 'none',
    'stem': 'small',
    'width': 2,
    'ensemble_size': 2,
    'meta_class_size': 4,
    'member_conv': 'grouped',
    'batch_size': 8,
    'learning_rate': 1e-3,
    'recalls': '1',
    'log_every': 1,
    'checkpoint_minutes': 0,  # a save begins when the one before it has ended
}


class Moment(NamedTuple):
    """When a start is to be killed.

    Attributes:
      name: what the program does then.
      has_come, is_over: whether the moment has begun, and whether it is too late.
      delay: seconds after it has begun.
    """

    name: str
    has_come: Callable[['Start'], bool]
    is_over: Callable[['Start'], bool]
    delay: float = 0.0


class Start:
    """One start of the program, in a child of this process, which has imported what it needs.

    Args:
      place: folder of the run, its prepared dataset and its logs.
      data: folder of the images.
      epochs: to train.
      last: step at which these epochs end.

    Attributes:
      saved_before: step of the newest checkpoint when it started, or 0.
      startup: seconds to its first step; None before that.
    """

    def __init__(self, place: Path, data: Path, epochs: int, last: int):
        self.last = last
        self._place, self._run = place, place / 'run'
        self.saved_before = self.saved()
        self.startup: float | None = None
        self._began = time.monotonic()
        self._code: int | None = None
        place.mkdir(exist_ok=True)
        for file in (self._errors, self._steps):
            file.unlink(missing_ok=True)
        self._pid = os.fork()
        if not self._pid:
            self._be_the_program(data, epochs)

    @property
    def _errors(self) -> Path:
        return self._place / 'errors'

    @property
    def _steps(self) -> Path:
        return self._place / 'steps'

    def _be_the_program(self, data: Path, epochs: int) -> NoReturn:
        """Runs the program to its end in this process, which writes the number of each step it trains."""
        code = 1
        try:
            with self._errors.open('w') as errors, Path(os.devnull).open('w') as nothing:
                os.dup2(nothing.fileno(), 1)
                os.dup2(errors.fileno(), 2)
            _note_steps(self._steps)
            places = {'data_dir': data, 'prepared_dir': self._place / 'prepared', 'compilation_cache': ''}
            fields = FIELDS | places | {'num_epochs': epochs}
            sys.argv = [
                *('sreml', '--config=configs/folder.py', f'--workdir={self._run}'),
                *(f'--config.{field}={value}' for field, value in fields.items()),
            ]
            from sreml_jax import main

            try:
                main.cli()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            logging.shutdown()
            os._exit(code)

    def steps(self) -> list[int]:
        """Returns the numbers of the steps that this start has trained, in their order."""
        return [int(line) for line in _text(self._steps).split('\n')[:-1]]

    def saved(self) -> int:
        """Returns the step of the newest checkpoint in place, or 0."""
        return max((int(name) for name in _names(self._run / 'checkpoints') if name.isdigit()), default=0)

    def is_saving(self, step: int) -> bool:
        """Whether the checkpoint of this step is being written."""
        return any(name.startswith(f'{step}.') for name in _names(self._run / 'checkpoints'))

    def is_preparing(self) -> bool:
        """Whether records of the dataset have been written, and not moved into place."""
        return any('incomplete.' in path.name for path in (self._place / 'prepared').glob('folder/*/*'))

    def is_prepared(self) -> bool:
        """Whether the prepared dataset lies in its place."""
        return (
            any((self._place / 'prepared').glob('folder/*/*/dataset_info.json')) and not self.is_preparing()
        )

    def is_evaluated(self) -> bool:
        """Whether the evaluation has written its results."""
        return (self._run / 'results.json').exists()

    def kill_at(self, moment: Moment) -> bool:
        """Waits for the moment and sends SIGKILL; returns False if that came too late.

        The program is stopped before the last look at it, so that it cannot go on between look and kill.
        """
        while not moment.has_come(self):
            if moment.is_over(self) or self._has_ended():
                self._end()
                return False
            self._wait()
        time.sleep(moment.delay)
        if self._has_ended():
            return False
        os.kill(self._pid, signal.SIGSTOP)
        hit = moment.has_come(self) and not moment.is_over(self)
        self._end()
        return hit

    def wait(self) -> None:
        """Waits for the program's end."""
        while not self._has_ended():
            self._wait()

    def seconds(self) -> float:
        """Returns how long it has run."""
        return time.monotonic() - self._began

    def faults(self) -> list[str]:
        """Returns how this start has not gone on from the checkpoint before it, once it has ended."""
        faults, steps = [], self.steps()
        if steps != list(range(self.saved_before + 1, self.saved_before + len(steps) + 1)):
            faults.append(
                f'trained the steps {steps[:3]}... after the checkpoint of step {self.saved_before}'
            )
        said = f'going on from step {self.saved_before}\n' in _text(self._errors)
        if steps and said != bool(self.saved_before):
            faults.append(f'did not say that it goes on from step {self.saved_before}')
        if any((self._run / 'checkpoints_damaged').glob('*')):
            faults.append('set a checkpoint aside')
        return faults

    def _wait(self) -> None:
        if self.startup is None and self.steps():
            self.startup = self.seconds()
        if self.seconds() > PATIENCE:
            self._end()
            self._give_up(f'has not come to its next moment in {PATIENCE} seconds')
        time.sleep(LOOK)

    def _has_ended(self) -> bool:
        """Whether the program has ended by itself; its fault ends this program too."""
        if self._code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if not pid:
                return False
            self._code = os.waitstatus_to_exitcode(status)
            if self._code:
                self._give_up(f'ended with exit code {self._code}')
        return True

    def _end(self) -> None:
        if not self._has_ended():
            os.kill(self._pid, signal.SIGKILL)
            self._code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _give_up(self, why: str) -> NoReturn:
        sys.exit(f'{_text(self._errors)}\nthe program {why}')


def import_program() -> None:
    """Imports what every start needs, and makes the backbone a small one, before the first child is made."""
    from sreml_jax.data.tensorflow_import import import_tensorflow

    import_tensorflow()
    import sreml_jax.data.pipeline
    import sreml_jax.evaluate
    import sreml_jax.main
    import sreml_jax.train  # noqa: F401
    from sreml_jax.model import resnet

    resnet.BACKBONES['resnet18'] = resnet.BACKBONES['resnet18']._replace(blocks=(1, 1, 1, 1))
    # A child does not use what the threads of its parent hold: none of these has computed anything.
    warnings.filterwarnings('ignore', message='.*fork', category=RuntimeWarning)
    warnings.filterwarnings('ignore', message='.*fork', category=DeprecationWarning)


def _note_steps(file: Path) -> None:
    """Makes the training loop write the number of each step to this file, which a kill leaves whole."""
    from sreml_jax.training.metrics_log import MetricsLog

    notes, add = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), MetricsLog.add

    def noted(self: MetricsLog, number: int, metrics: dict) -> None:
        os.write(notes, f'{number}\n'.encode())
        add(self, number, metrics)

    MetricsLog.add = noted  # type: ignore[method-assign]


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ''


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.exists() else []
