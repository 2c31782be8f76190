"""The whole benchmark: trains and evaluates the missing cells of the table, and prints it as Markdown.

python launch/table.py                                          all datasets, backbones and crops
python launch/table.py --datasets=car,cub --backbones=resnet18 --config.data_dir=DIR
python launch/table.py --dry-run                                the commands
python launch/table.py --slurm                                  as a SLURM array, a node a cell; safe twice
python launch/table.py --print                                  only the tables, finished cells alone

Each cell has a workdir in --folder. Every run gets --config.FIELD=VALUE. Ctrl-C saves the current run; the
same command goes on from there. A failed cell is tried again next time. Tables go to stdout, messages to
stderr. The exit code is 1 if a cell failed.
"""

import argparse
import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import table_text  # noqa: E402
from absl import flags  # noqa: E402
from table_cells import COLUMNS, Cell, Folder  # noqa: E402

from sreml_jax.configs import default  # noqa: E402
from sreml_jax.runtime.errors import did_you_mean  # noqa: E402

BACKBONES = ('resnet18', 'resnet34', 'resnet50', 'resnext50_32x4d')
OURS = ('model_type', 'crop_type', 'data_name')  # fields that the table itself sets


def main() -> None:
    """Does what the flags ask for."""
    args, folder, cells = parse()
    missing = [cell for cell in cells if folder.state(cell).word != 'done']
    if args.slurm:
        submit(folder, missing, args.dry_run)
    elif args.dry_run:
        print_plan(folder, missing)
    else:
        if not args.print:
            with locked(args.folder) as lock:
                run(folder, missing, lock)
        print_tables(folder, cells)
        sys.exit(any(folder.state(cell).word == 'failed' for cell in cells))


def parse() -> tuple[argparse.Namespace, Folder, list[Cell]]:
    """Returns the flags, the table's folder, and the cells in the order of their runs."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    datasets, crops = (tuple(dict.fromkeys(names)) for names in zip(*COLUMNS, strict=True))
    for name, known in (('datasets', datasets), ('backbones', BACKBONES), ('crops', crops)):
        p.add_argument(f'--{name}', type=some(known), default=list(known), help=f'some of {",".join(known)}')
    p.add_argument('--folder', type=Path, default=Path('runs/table'), help='of the workdirs [runs/table]')
    p.add_argument('--dry-run', action='store_true', help='print the commands of what is missing')
    p.add_argument('--slurm', action='store_true', help='submit what is missing as a SLURM array')
    p.add_argument('--print', action='store_true', help='print the tables, run nothing')
    args, extra = p.parse_known_args()
    fields = default.get_config()
    for argument in extra:
        field = argument.partition('=')[0].removeprefix('--config.')
        if not argument.startswith('--config.') or '=' not in argument:
            p.error(f'unknown argument {argument}; the runs take --config.FIELD=VALUE')
        if field not in fields:
            p.error(
                f'config has no field {field!r}{did_you_mean(field, fields)}; configs/default.py lists all'
            )
        if field in OURS:
            p.error(f'the table sets config.{field} itself; use --datasets, --backbones and --crops')
    folder = Folder(args.folder, tuple(extra))
    cells = [
        Cell(dataset, crop, backbone)
        for backbone in args.backbones
        for dataset, crop in COLUMNS
        if dataset in args.datasets and crop in args.crops
    ]
    if not cells:
        p.error(f'only car and cub can be cropped, not {",".join(args.datasets)}; add --crops=uncropped')
    try:
        folder.config(cells[0])
    except (flags.Error, TypeError, ValueError) as error:
        p.error(' '.join(str(error).split()))
    return args, folder, cells


def some(known: Sequence[str]):
    """Returns the type of a flag that names some of these, separated by commas."""

    def names(text: str) -> list[str]:
        if unknown := [name for name in text.split(',') if name not in known]:
            raise argparse.ArgumentTypeError(f'{", ".join(unknown)}; known are {", ".join(known)}')
        return text.split(',')

    return names


def run(folder: Folder, cells: Sequence[Cell], lock: int) -> None:
    """Runs the cells one after another; a signal stops the current one and this program."""
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: received.append(number))
    absent: set[str] = set()  # datasets of which there is no copy
    for i, cell in enumerate(cells, 1):
        if cell.dataset in absent:
            continue
        say(f'{cell} ({i} of {len(cells)}): running; its messages are in {folder.log(cell)}')
        process = folder.start(cell, lock)
        os.truncate(lock, 0)
        os.pwrite(lock, f'kill {os.getpid()}, or, if only the run is left, kill {process.pid}'.encode(), 0)
        passed_on = 0
        while process.poll() is None:
            for number in received[passed_on:]:
                process.send_signal(number)
                passed_on += 1
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        code = 128 + received[0] if received else process.returncode
        state = folder.end(cell, code)
        recall = (state.results or {}).get('recall', {})
        say(f'{cell}: {state.word}' + (f', R@1 {100 * recall["1"]:.2f}%' if '1' in recall else ''))
        if state.reason:
            say(f'    {state.reason}')
        if f'no copy of {cell.dataset} lies in' in state.reason:
            absent.add(cell.dataset)
        if received:
            say('stopped; the same command goes on from there')
            sys.exit(128 + received[0])


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Locks the folder for this program and for the current run, which may outlive it; yields the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / 'lock', os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        end = os.pread(lock, 99, 0).decode() or 'scancel its jobs'
        say(f'error: a run of the table in {folder} is still under way; wait for it, or end it: {end}')
        sys.exit(2)
    try:
        yield lock
    finally:
        os.truncate(lock, 0)
        os.close(lock)


def submit(folder: Folder, cells: Sequence[Cell], dry_run: bool) -> None:
    """Submits the cells as a SLURM array; `dry_run`: prints the command."""
    if not cells:
        say('nothing is missing')
        return
    names = [cell.name for cell in cells]
    logs = folder.path / 'logs'
    command = ['sbatch', f'--array=0-{len(cells) - 1}', str(HERE / 'table.sbatch'), str(logs), *names]
    if dry_run:
        print(shlex.join(command))
        return
    for cell in cells:
        folder.keep_arguments(cell)
    try:
        sys.exit(subprocess.run(command).returncode)
    except FileNotFoundError:
        say('error: there is no sbatch on this machine; leave out --slurm, or start this where SLURM is')
        sys.exit(2)


def print_plan(folder: Folder, cells: Sequence[Cell]) -> None:
    """Prints the command of every cell."""
    for cell in cells:
        print(shlex.join(['python', '-m', 'sreml_jax.main', *folder.arguments(cell)]))


def print_tables(folder: Folder, cells: Sequence[Cell]) -> None:
    """Prints a table of parameters, and one of Recall@K per backbone."""
    import jax

    from sreml_jax.model import init
    from sreml_jax.needs import count
    from sreml_jax.run import model_of

    jax.config.update('jax_platforms', 'cpu')  # only shapes are needed; the runs have the devices
    print(
        table_text.parameter_table(
            cells, lambda cell: count(init.shapes(model_of(folder.config(cell)))['params'])
        )
    )
    for backbone in dict.fromkeys(cell.backbone for cell in cells):
        states = {cell: folder.state(cell) for cell in cells if cell.backbone == backbone}
        print('\n' + table_text.recall_table(backbone, states))


def say(message: str) -> None:
    """Prints a message, apart from the tables."""
    print(message, file=sys.stderr, flush=True)


if __name__ == '__main__':
    main()
