"""What all benchmarks share: alternating medians, and the record that is kept of a run."""

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path


def alternate(runs: dict[str, Callable[[], object]], repeats: int, warmup: int = 1) -> dict[str, float]:
    """Times the functions in turn, A B C A B C ..., and returns each one's median seconds.

    Each function must block until its work is done.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(-warmup, repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(s) for name, s in seconds.items()}


def keep(figures: dict, args: argparse.Namespace) -> None:
    """Prints the figures as one JSON line, and writes them to `args.json` where that is given."""
    packages = ('jax', 'jaxlib', 'flax', 'tensorflow-cpu', 'torch', 'faiss-cpu', 'pillow', 'numpy')
    record = {
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'machine': platform.processor() or platform.machine(),
        'versions': {p: v for p in packages if (v := _version(p))},
        'arguments': {k: v for k, v in vars(args).items() if k != 'json'},
        'figures': figures,
    }
    print(json.dumps(record))
    if args.json:
        Path(args.json).write_text(json.dumps(record, indent=2) + '\n')


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
