"""What all benchmarks share: alternating medians, memory, and the record of a run."""

import argparse
import datetime
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import jax

SETTINGS = ('GLIBC_TUNABLES', 'XLA_FLAGS')  # environment variables that change a timing


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


class PeakMemory:
    """The greatest memory beyond that at the start, without mapped files."""

    def __enter__(self) -> 'PeakMemory':
        self._start = self._peak = _anonymous_bytes()
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._stop.wait(0.01):
            self._peak = max(self._peak, _anonymous_bytes())

    def figures(self) -> dict[str, float]:
        """Megabytes on the host beyond the start, and on an accelerator in all."""
        figures = {'host MB beyond the start': round((self._peak - self._start) / 1e6)}
        if stats := jax.devices()[0].memory_stats():
            figures['device MB'] = round(stats['peak_bytes_in_use'] / 1e6)
        return figures


def _anonymous_bytes() -> int:
    """This process's memory that no file backs (Linux)."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith('RssAnon'))


def positive(text: str) -> int:
    """Returns the number that an option gives; argparse refuses it, by ValueError, if it is below 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def keep(figures: dict, args: argparse.Namespace) -> None:
    """Prints the figures as one JSON line, and writes them to `args.json` if it is set."""
    print(json.dumps(keep_so_far(figures, args)))


def keep_so_far(figures: dict, args: argparse.Namespace) -> dict:
    """Writes the figures to `args.json` if it is set, should the rest take too long; returns their record."""
    ours = ('jax', 'jaxlib', 'flax', 'tensorflow-cpu', 'pillow', 'numpy')
    packages = (*ours, 'torch', 'pytorch-metric-learning', 'faiss-cpu')
    record = {
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'machine': platform.processor() or platform.machine(),
        'versions': {p: v for p in packages if (v := _version(p))},
        'environment': {name: os.environ[name] for name in SETTINGS if name in os.environ},
        'arguments': {k: v for k, v in vars(args).items() if k != 'json'},
        'figures': figures,
    }
    if args.json:
        write(Path(args.json), record)
    return record


def write(path: Path, record: dict) -> None:
    """Writes the record as JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'{path.name}.tmp')
    temporary.write_text(json.dumps(record, indent=2) + '\n')
    temporary.replace(path)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
