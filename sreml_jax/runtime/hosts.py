"""Joins several hosts into one run, and makes their common decisions.

JAX's own runtime connects them. Every process runs the same program on the same workdir, which must lie on a
file system that all of them see; the first one alone writes logs, tables and pictures.
"""

import faulthandler
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from sreml_jax.runtime.errors import UserError

T = TypeVar('T')

# How srun and Open MPI's mpirun tell a process that it is one of several.
_COUNTS = ('SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE')
# If a process is silent for this long, JAX ends the others too, with a message of its own.
DEAD_SECONDS = 60
AGREE_STEPS = 10  # steps between the agreements of several hosts whether to save or stop


def connect(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins the other processes of the run, if there are any. Must come before JAX is first used.

    Args:
      coordinator: 'host:port' of process 0, or None: SLURM or Open MPI say it, if one of them started us.
      processes: their number.
      process: index of this one, from 0.

    Raises:
      UserError: one of the three is missing, or the others cannot be reached.
    """
    given = (coordinator, processes, process)
    if given == (None, None, None):
        if not any(int(os.environ.get(name, 1)) > 1 for name in _COUNTS):
            return
    elif None in given:
        raise UserError('--coordinator, --processes and --process go together: give all three, or none')
    try:
        jax.distributed.initialize(*given, heartbeat_timeout_seconds=DEAD_SECONDS)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f'the {processes or "other"} processes of this run did not find each other '
            f'({str(error).splitlines()[0]}); start all of them, with one --coordinator'
        ) from error
    faulthandler.disable()  # absl's: it would bury JAX's message that a process died under its stacks
    if not is_first():
        logging.getLogger('sreml_jax').setLevel(logging.ERROR)  # the first one logs for all


def is_first() -> bool:
    """Returns whether this process writes what is written once."""
    return jax.process_index() == 0


def agree(number: int, stop: int, due: bool) -> tuple[int, bool]:
    """Returns (stop, due) after step `number`, the same in all processes.

    Several hosts ask each other every `AGREE_STEPS` steps, and change nothing in between: `stop` is the
    greatest of all of them, `due` that of the first.
    """
    if jax.process_count() == 1:
        return stop, due
    if number % AGREE_STEPS:
        return 0, False
    said = multihost_utils.process_allgather(np.array([stop, due], np.int32))
    return int(said[:, 0].max()), bool(said[0, 1])


def share(jobs: Sequence[T]) -> Sequence[T]:
    """Returns this process's share of the jobs: every n-th if there are n processes."""
    return jobs[jax.process_index() :: jax.process_count()]


def combine(x: np.ndarray, reduce: Callable[..., np.ndarray]) -> np.ndarray:
    """Returns `reduce` (np.sum, np.max, np.min) of the x of all processes, elementwise, to each of them."""
    if jax.process_count() == 1:
        return x
    return reduce(multihost_utils.process_allgather(x), axis=0)


def end(code: int) -> NoReturn:
    """Ends this process; one of several ends at once, as JAX's shutdown would wait for the others."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
