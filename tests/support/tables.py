"""Starts launch/table.py, with the program or a stub in its place, and waits for files."""

import os
import subprocess
import sys
import time
from pathlib import Path

from support.paths import ROOT

TABLE = [sys.executable, str(ROOT / 'launch' / 'table.py')]


def run(*arguments: str, program: str = '', **options) -> subprocess.Popen:
    """Starts launch/table.py; `program` takes the place of sreml_jax.main."""
    start = 'import sys, table_cells, table; table_cells.PROGRAM = sys.argv.pop(1).split(); table.main()'
    command = [sys.executable, '-c', start, program] if program else TABLE
    environment = os.environ | {'PYTHONPATH': str(ROOT / 'launch')}
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    return subprocess.Popen([*command, *arguments], env=environment | options, **pipes)


def wait_for(path: Path) -> None:
    """Returns when the file is there."""
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f'{path} has not come')
