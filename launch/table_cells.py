"""One cell of the benchmark table: a dataset, a crop and a backbone, its run, and how far that is."""

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
        """Of its files: car-cropped-resnet18."""
        return f'{self.dataset}-{self.crop}-{self.backbone}'

    @property
    def column(self) -> str:
        """The seed's head of its column."""
        return COLUMNS[self.dataset, self.crop]

    def __str__(self) -> str:
        return f'{self.column}, {self.backbone}'


class State(NamedTuple):
    """How far a cell is.

    Attributes:
      word: 'done', 'failed', 'not finished' or 'not run'.
      results: of a cell that is done, its results.json.
      reason: of one that failed, the last line of its stderr.
      extra: the fields of the config that were set for this table's runs, as on the command line.
    """

    word: str
    results: dict | None = None
    reason: str = ''
    extra: tuple[str, ...] = ()


class Folder:
    """Where a table is kept: a workdir a cell, and in logs/ its arguments, its stderr and its exit code.

    Args:
      path: need not exist.
      extra: --config.FIELD=VALUE of every run.
    """

    def __init__(self, path: Path, extra: tuple[str, ...] = ()):
        self.path, self._extra = path, extra

    def log(self, cell: Cell, kind: str = 'log') -> Path:
        """Returns where its stderr is kept; 'args' and 'exit': its arguments, its exit code."""
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
        """Writes the arguments down, one a line: for table.sbatch, and for `state`."""
        _write(self.log(cell, 'args'), ''.join(f'{argument}\n' for argument in self.arguments(cell)))

    def state(self, cell: Cell) -> State:
        """Returns how far the cell is, by its files alone."""
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
        """Returns the config of its run; raises what ml_collections raises for a field it has not."""
        _, __, *fields = self.arguments(cell)
        config = importlib.import_module(f'sreml_jax.configs.{cell.dataset}').get_config()
        values = flags.FlagValues()
        config_flags.DEFINE_config_dict('config', config, flag_values=values, sys_argv=['table', *fields])
        values(['table', *fields])
        return values.config

    def start(self, cell: Cell, lock: int) -> subprocess.Popen:
        """Starts the cell's run, which goes on by itself from its newest checkpoint.

        lock: a file that it keeps open to its end.
        """
        self.log(cell, 'exit').unlink(missing_ok=True)
        self.keep_arguments(cell)
        path = filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])
        with self.log(cell).open('wb') as log:
            # In a session of its own: Ctrl-C in the terminal reaches us alone, and is passed on once.
            return subprocess.Popen(
                [*PROGRAM, *self.arguments(cell)],
                env=os.environ | {'PYTHONPATH': os.pathsep.join(path)},
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,
            )

    def end(self, cell: Cell, returncode: int) -> State:
        """Writes down how the run ended; returns how far the cell is."""
        code = returncode if returncode >= 0 else 128 - returncode
        _write(self.log(cell, 'exit'), f'{code}\n')
        return self.state(cell)


def _read(path: Path) -> str:
    return path.read_text(errors='replace') if path.exists() else ''


def _write(path: Path, text: str) -> None:
    """Writes a file; whoever reads it meanwhile finds the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + '.tmp')
    temporary.write_text(text)
    temporary.replace(path)
