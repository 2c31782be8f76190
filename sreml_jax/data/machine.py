"""What this process may use of the machine."""

import os
from pathlib import Path


def cores() -> int:
    """Returns the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def free_memory() -> int:
    """Returns the bytes that this process may still take, as far as the system tells; 0 where it does not."""
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
