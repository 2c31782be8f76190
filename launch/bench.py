"""Side-by-side timings, one subcommand a thing measured: python launch/bench.py {input,convs,step,recall} ...

Every figure is a median over alternating runs, beside whatever it is compared with;
`--json FILE` keeps the figures with date, device and versions.
"""

import importlib
import sys
from pathlib import Path

SUBJECTS = ('input', 'convs', 'step', 'recall')


def main() -> None:
    """Runs bench_<subject>.py with the remaining arguments."""
    if len(sys.argv) < 2 or sys.argv[1] not in SUBJECTS:
        print(f'usage: python launch/bench.py {{{",".join(SUBJECTS)}}} [--help]', file=sys.stderr)
        sys.exit(2)
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here), str(here.parent)]
    from sreml_jax import heap

    heap.keep_freed_memory()  # as the program does
    importlib.import_module(f'bench_{sys.argv.pop(1)}').main()


if __name__ == '__main__':
    main()
