"""The benchmarks of this program on a card, in one run of at most 8 minutes.

python launch/bench card --json=launch/bench_results/h100.json
python launch/bench card --json=FILE --birds=FOLDER --weights=resnet18.npz   also trains 48 members on birds
python launch/bench card --json=FILE --tiny                                  the same parts on a CPU, in small

Parts run one after another, the most valuable first, each in a process of its own with a time limit. A
finished part is printed and kept at once, so a kill loses only the part under way. Tensorflow is not needed:
the wheels jax[cuda13], flax, optax, orbax-checkpoint, ml-collections, matplotlib, pillow and tensorboardX
suffice, with what they bring; and jax-triton with triton for the kernels of Hopper GPUs. The peers need torch
and the input pipeline tensorflow; without them their parts are skipped.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from measure import write

BENCH = Path(__file__).resolve().parent
TOTAL = 480.0  # seconds
FLAGS = {
    'commands as one graph with convolutions': '--xla_gpu_enable_command_buffer=+CONVOLUTION',
    'convolutions fused with what follows': '--xla_gpu_experimental_enable_conv_fusion=true',
    'commands of a graph concurrent': '--xla_gpu_command_buffer_scheduling_mode=CONCURRENT',
}


class Part(NamedTuple):
    """One benchmark with its flags.

    Attributes:
      name: its key in the file.
      arguments: of python launch/bench, without --json.
      limit: seconds.
      xla_flags: added to the environment's.
      needs: a package without which it is skipped.
    """

    name: str
    arguments: tuple[str, ...]
    limit: float = 60
    xla_flags: str = ''
    needs: str = 'jax'


def main() -> None:
    """Runs the parts; exit code 1 if one failed."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--json', required=True, help='keep the figures in this file; each part as it is finished')
    p.add_argument('--birds', help='a folder or tar of <class>/*: train and evaluate on it')
    p.add_argument('--weights', default='none', help='initial weights of that run')
    p.add_argument('--minutes', type=float, default=TOTAL / 60, help='in all [8]')
    p.add_argument('--parts', default='', help='only those whose name begins with one of these')
    p.add_argument('--tiny', action='store_true', help='smallest sizes, for a CPU')
    args = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    wanted = tuple(args.parts.split(','))
    chosen = [part for part in parts(args) if part.name.startswith(wanted)]
    if any(part.name == 'peers of resnet18' and is_there(part) for part in chosen):
        chosen = [part for part in chosen if part.name != 'step resnet18']  # the peers' has ours too
    record: dict = {'minutes': args.minutes, 'parts': {}, 'not started': [part.name for part in chosen]}
    end = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as folder:
        for part in chosen:
            if (left := end - time.monotonic()) < 1:
                break
            record['parts'][part.name] = found = run(part, min(part.limit, left), Path(folder))
            record['not started'].remove(part.name)
            write(Path(args.json), record)
            print(f'{part.name}: {found["state"]}, {found["seconds"]} s', flush=True)
    write(Path(args.json), record)
    print(f'{args.json} holds the figures; not started: {", ".join(record["not started"]) or "none"}')
    sys.exit(any(found['state'].startswith('failed') for found in record['parts'].values()))


def parts(args: argparse.Namespace) -> list[Part]:
    """Returns all parts, by worth."""
    size = ('--members=48', '--size=256', '--batch=12')
    if args.tiny:
        size = ('--members=8', '--size=32', '--batch=4')
    dtype, repeats = ('float32', 1) if args.tiny else ('bfloat16', 8)
    step = ('step', *size, f'--dtype={dtype}', f'--repeats={repeats}')
    recall = ('--size=200', '--dim=16') if args.tiny else ('--size=60502', '--dim=24000')
    backbones = ('resnet18', 'resnet50', 'resnext50_32x4d', 'resnet34')
    birds, only = [], ()
    if args.tiny:
        step, only = (*step, '--conv=grouped'), ('--algorithms=matmul',)
    if args.birds:
        flags = (f'--images={args.birds}', f'--weights={args.weights}', *size)
        few = ('--epochs=1', '--meta_classes=2', '--members=1') if args.tiny else ()
        birds.append(Part('birds', ('birds', *flags, *few), 170))
    peer = (*step, '--peer=loop') if args.tiny else (*step, '--peer=graph,loop')
    found = [
        Part('check', ('check', '--backbones=resnet18', *(only or ('--algorithms=grouped,matmul',))), 60),
        Part('step resnet18', (*step, '--model_type=resnet18'), 60),
        Part('peers of resnet18', peer, 130, needs='torch'),
        *birds,
        Part("recall at SOP's size", ('recall', *recall, '--repeats=1'), 70),
        *(Part(f'step {b}', (*step, f'--model_type={b}'), 90) for b in backbones[1:3]),
        Part("step resnet18, XLA's ways", (*step, '--xla_only'), 60),
        *(Part(f'flags: {name}', step, 40, flag) for name, flag in FLAGS.items()),
        Part('peer by vmap', (*step, '--peer=vmap'), 40, needs='torch'),
        Part('step resnet34', (*step, '--model_type=resnet34'), 60),
        Part('check of the rest', ('check', f'--backbones={",".join(backbones[1:])}', *only), 60),
    ]
    for b in backbones[:1] if args.tiny else backbones:
        flags = (f'--backbones={b}', f'--dtype={dtype}', *size, *only, '--repeats=1')
        found.append(Part(f'convolutions {b}', ('convs', *flags), 60))
    if args.birds:
        flags = (f'--images={args.birds}', '--number=8' if args.tiny else '--number=2400', '--repeats=1')
        found.append(Part('input', ('input', *flags), 40, needs='tensorflow'))
    return found


def is_there(part: Part) -> bool:
    """Whether the package that the part needs is installed."""
    return importlib.util.find_spec(part.needs) is not None


def run(part: Part, limit: float, folder: Path) -> dict:
    """Returns what the part kept; its output goes to the terminal as it comes."""
    if not is_there(part):
        return {'state': f'skipped, {part.needs} is not installed', 'seconds': 0}
    kept, log = folder / 'figures.json', folder / 'log'
    kept.unlink(missing_ok=True)
    flags = f'{os.environ.get("XLA_FLAGS", "")} {part.xla_flags}'.strip()
    environment = os.environ | {'XLA_FLAGS': flags} if flags else os.environ
    command = [sys.executable, str(BENCH), *part.arguments, f'--json={kept}']
    begin = time.monotonic()
    with log.open('w+') as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(limit)
            state = 'done' if process.returncode == 0 else f'failed with exit code {process.returncode}'
        except subprocess.TimeoutExpired:
            state = f'stopped after its {limit:.0f} s'
        finally:
            with_children(process)
            output.seek(0)
            said = output.read()
    sys.stdout.write(said)
    figures = json.loads(kept.read_text()) if kept.exists() else {'said': said.splitlines()[-20:]}
    return {
        'state': state,
        'seconds': round(time.monotonic() - begin, 1),
        'command': part.arguments,
        **figures,
    }


def with_children(process: subprocess.Popen) -> None:
    """Ends the part's process and those that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
