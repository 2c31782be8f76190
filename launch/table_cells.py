"""One cell of the benchmark table: a dataset, a crop and a backbone, its run and its state."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = {
    ('car', 'uncropped'): 'CARS196',
    ('cub', 'uncropped'): 'CUB200',
    ('car', 'cropped'): 'CARS196 (Crop)',
    ('cub', 'cropped'): 'CUB200 (Crop)',
    ('sop', 'uncropped'): 'SOP',
    ('isc', 'uncropped'): 'In-shop',
}
PROGRAM = (sys.executable, '-m', 'sreml_jax.main')
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # saved, and goes on next time


class Cell(NamedTuple):
    """A column of a backbone's table of Recall@K."""

    dataset: str
    crop: str
    backbone: str

    @property
    def name(self) -> str:
        """The name of its files: car-cropped-resnet18."""
        return f'{self.dataset}-{self.crop}-{self.backbone}'

    @property
    def column(self) -> str:
        """The seed's heading of its column."""
        return COLUMNS[self.dataset, self.crop]

    def __str__(self) -> str:
        return f'{self.column}, {self.backbone}'


class State(NamedTuple):
    """The state of a cell.

    Attributes:
      word: 'done', 'failed', 'not finished' or 'not run'.
      results: results.json of a finished cell.
      reason: the last line on stderr of a failed cell.
      extra: config fields set for the runs of this table, as on the command line.
    """

    word: str
    results: dict | None = None
    reason: str = ''
    extra: tuple[str, ...] = ()


class Folder:
    """The folder of a table: a workdir per cell, and in logs/ its arguments, stderr and exit code.

    Args:
      path: need not exist.
      extra: --config.FIELD=VALUE for every run.
    """

    def __init__(self, path: Path, extra: tuple[str, ...] = ()):
        self.path, self._extra = path, extra

    def log(self, cell: Cell, kind: str = 'log') -> Path:
        """Returns the file of its stderr, or of its arguments ('args') or exit code ('exit')."""
        return self.path / 'logs' / f'{cell.name}.{kind}'

    def arguments(self, cell: Cell) -> list[str]:
        """Returns the command line of the cell's run."""
        return [
            f'--config=configs/{cell.dataset}.py',
            f'--workdir={self.path / cell.name}',
            f'--config.model_type={cell.backbone}',
            f'--config.crop_type={cell.crop}',
            *self._extra,
        ]

    def keep_arguments(self, cell: Cell) -> None:
        """Writes the arguments, one per line, for table.sbatch and `state`."""
        _write(self.log(cell, 'args'), ''.join(f'{argument}\n' for argument in self.arguments(cell)))

    def state(self, cell: Cell) -> State:
        """Returns the state of the cell, from its files."""
        arguments = _read(self.log(cell, 'args')).splitlines()
        extra = tuple(arguments[len(self.arguments(cell)) - len(self._extra) :])
        results = self.path / cell.name / 'results.json'
        if results.exists():
            return State('done', json.loads(results.read_text()), extra=extra)
        code = int(_read(self.log(cell, 'exit')) or 0)
        if code and code not in STOPPED:
            said = _read(self.log(cell)).strip().rpartition('\n')[2].removeprefix('error: ')
            killed = f'killed by signal {code - 128}; ' if code > 128 else ''
            return State('failed', reason=f'{killed}{said or f"exit code {code}"}', extra=extra)
        return State('not finished' if (self.path / cell.name).exists() else 'not run', extra=extra)

    def config(self, cell: Cell) -> ConfigDict:
        """Returns the config of its run; raises what ml_collections raises for an unknown field."""
        _, __, *fields = self.arguments(cell)
        config = importlib.import_module(f'sreml_jax.configs.{cell.dataset}').get_config()
        values = flags.FlagValues()
        config_flags.DEFINE_config_dict('config', config, flag_values=values, sys_argv=['table', *fields])
        values(['table', *fields])
        return values.config

    def start(self, cell: Cell, lock: int) -> subprocess.Popen:
        """Starts the cell's run, which goes on from its newest checkpoint.

        lock: a file descriptor that it keeps open until it ends.
        """
        self.log(cell, 'exit').unlink(missing_ok=True)
        self.keep_arguments(cell)
        path = filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])
        with self.log(cell).open('wb') as log:
            # In its own session: Ctrl-C in the terminal reaches only us, and we pass it on once.
            return subprocess.Popen(
                [*PROGRAM, *self.arguments(cell)],
                env=os.environ | {'PYTHONPATH': os.pathsep.join(path)},
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,
            )

    def end(self, cell: Cell, returncode: int) -> State:
        """Records how the run ended; returns the state of the cell."""
        code = returncode if returncode >= 0 else 128 - returncode
        _write(self.log(cell, 'exit'), f'{code}\n')
        return self.state(cell)


def _read(path: Path) -> str:
    return path.read_text(errors='replace') if path.exists() else ''


def _write(path: Path, text: str) -> None:
    """Writes a file atomically: a reader finds the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + '.tmp')
    temporary.write_text(text)
    temporary.replace(path)
