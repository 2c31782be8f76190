"""PyTorch's training steps beside ours, each in a process of its own, as if it ran alone."""

import argparse
import multiprocessing
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sreml_jax.run import Run

NAMES = ('loop', 'compiled', 'graph', 'vmap')  # peer_steps.STEPS, without importing torch


def names(text: str) -> tuple[str, ...]:
    """Returns the peers that --peer names; argparse shows its ArgumentTypeError."""
    found = tuple(text.split(','))
    if unknown := [name for name in found if name not in NAMES]:
        raise argparse.ArgumentTypeError(f'{", ".join(unknown)}; known are {", ".join(NAMES)}')
    return found


def start(name: str, args: argparse.Namespace, run: Run, in_a_row: int = 1) -> Callable[[], None]:
    """Starts the peer's process; returns a function that runs so many steps of it to their end."""
    import peer_steps

    if args.width != 64:
        raise SystemExit("error: the peer has torchvision's width; leave out --width or --peer")
    on_cpu = jax.default_backend() == 'cpu'
    if name == 'graph' and on_cpu:
        raise SystemExit('error: a CUDA graph needs a GPU; leave graph out of --peer')
    spawn = multiprocessing.get_context('spawn')
    requests, theirs = spawn.Pipe()
    system = {
        'requests': theirs,
        'name': name,
        'model_type': args.model_type,
        'members': args.members,
        'meta_classes': args.meta_classes,
        'shape': (args.batch, args.size),
        'device': 'cpu' if on_cpu else 'cuda',
        'bfloat16': run.model.dtype == jnp.bfloat16,
    }
    spawn.Process(target=peer_steps.serve, kwargs=system, daemon=True).start()
    theirs.close()

    def once() -> None:
        try:
            requests.send(in_a_row)
            requests.recv()
        except (EOFError, ConnectionError):
            raise SystemExit(
                'error: the PyTorch process ended; it says why above, or it was killed, perhaps for memory'
            ) from None

    return once


def figures(seconds: dict[str, float], ours: float, batch: int) -> dict[str, float]:
    """Returns images/s of each peer, and how many times as fast a step of ours is."""
    found = {}
    for name, theirs in seconds.items():
        found[f'PyTorch {name} images/s'] = round(batch / theirs, 1)
        found[f'times as fast as PyTorch {name}'] = round(theirs / ours, 2)
    if len(seconds) > 1:
        fastest = min(seconds, key=seconds.__getitem__)
        found['fastest PyTorch'] = fastest
        found['times as fast as the fastest'] = round(seconds[fastest] / ours, 2)
    return found
