"""Reads batches ahead in a thread. Imports no tensorflow."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

from sreml_jax.runtime.errors import RunError

Item = TypeVar('Item')


def read(batches: Iterable[Item], stall_minutes: float) -> Iterator[Item]:
    """Yields the batches, one or two read ahead; raises what reading raises.

    Raises:
      RunError: no batch arrived for `stall_minutes`.
    """
    ready: queue.Queue = queue.Queue(1)
    stopped = threading.Event()

    def put(kind: str, value: object) -> None:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=0.5)
                return
            except queue.Full:
                pass

    def work() -> None:
        try:
            for batch in batches:
                put('batch', batch)
                if stopped.is_set():
                    return
            put('end', None)
        except Exception as error:
            put('error', error)

    # A daemon thread: one that hangs in a read must not keep the program from ending.
    threading.Thread(target=work, name='batches', daemon=True).start()
    try:
        while True:
            try:
                kind, value = ready.get(timeout=60 * stall_minutes)
            except queue.Empty:
                raise RunError(
                    f'no batch arrived for {stall_minutes:g} minutes (config.stall_minutes): check whether '
                    'the disk of config.prepared_dir answers; the same command goes on from the newest '
                    'checkpoint'
                ) from None
            if kind == 'error':
                raise value
            if kind == 'end':
                return
            yield value
    finally:
        stopped.set()
