"""Benchmarks, one subcommand per subject: python launch/bench SUBJECT [--help].

Times are medians over alternating runs, beside what they are compared with, where it says nothing else.
`--json FILE` keeps the figures with date, device and versions.
"""

import importlib
import os
import sys
from pathlib import Path

SUBJECTS = ('step', 'compile', 'convs', 'recall', 'input', 'check', 'birds', 'trials', 'peer_proxy', 'card')
HERE = Path(__file__).resolve().parent


def main() -> None:
    """Runs <subject>.py with the remaining arguments."""
    if len(sys.argv) < 2 or sys.argv[1] not in SUBJECTS:
        print(f'usage: python launch/bench {{{",".join(SUBJECTS)}}} [--help]', file=sys.stderr)
        sys.exit(2)
    if 'GLIBC_TUNABLES' not in os.environ:  # glibc reads it when a process starts
        os.environ['GLIBC_TUNABLES'] = tunables()
        os.execv(sys.executable, [sys.executable, str(HERE), *sys.argv[1:]])
    sys.path[:0] = [str(HERE), str(HERE.parents[1])]
    importlib.import_module(sys.argv.pop(1)).main()


def tunables() -> str:
    """Returns what launch/malloc.env sets."""
    lines = (HERE.parent / 'malloc.env').read_text().splitlines()
    return next(line.partition('=')[2] for line in lines if line.startswith('GLIBC_TUNABLES='))


if __name__ == '__main__':
    main()
