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

_GROUP = Path('/sys/fs/cgroup')  # of this process, as containers see it
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
    return min([free, *_allowed()])


def _allowed() -> list[int]:
    """Returns what a container's or a job's own limit leaves, in bytes; nothing where there is none."""
    for limit, used, cache in (
        ('memory.max', 'memory.current', 'inactive_file'),
        ('memory/memory.limit_in_bytes', 'memory/memory.usage_in_bytes', 'total_inactive_file'),  # version 1
    ):
        with contextlib.suppress(OSError, ValueError):  # 'max' is no number
            left = int((_GROUP / limit).read_text()) - int((_GROUP / used).read_text())
            stat = (_GROUP / used).with_name('memory.stat').read_text().split()
            cached = int(stat[stat.index(cache) + 1])  # files that the kernel drops when memory runs short
            return [max(left + cached, 1)]
    return []


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
