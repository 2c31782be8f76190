"""Reports the cores and memory that this process may use; locks files that others write too."""

import collections
import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)

_Item = TypeVar('_Item')
_Result = TypeVar('_Result')


def cores() -> int:
    """Returns the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def free_memory() -> int:
    """Returns the bytes that this process may still take; 0 if the system does not say."""
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable:'))
    except (OSError, StopIteration):
        return 0
    group = Path('/sys/fs/cgroup')
    try:  # a container's or a job's own limit
        limit, used = ((group / f'memory.{x}').read_text().strip() for x in ('max', 'current'))
        return free if limit == 'max' else min(free, max(int(limit) - int(used), 0))
    except OSError:
        return free


def in_threads(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yields function(item) in order; threads on every core compute a few items ahead."""
    with futures.ThreadPoolExecutor(cores()) as pool:
        ahead: collections.deque[futures.Future[_Result]] = collections.deque()
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 4 * cores():
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of the file `path`; the system frees it when its holder ends in any way."""
    with path.open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning('Another process is at work in %s; waiting for it.', path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
