"""Reading ahead: everything in order, errors where they belong, and no waiting for ever."""

import threading
import time

import pytest

from sreml_jax.data import prefetch
from sreml_jax.runtime.errors import RunError


def test_all_batches_come_in_order():
    assert list(prefetch.read(iter(range(50)), 1.0)) == list(range(50))


def test_what_reading_raises_comes_after_the_batches_before_it():
    def batches():
        yield 1
        raise RuntimeError('bird.jpg: damaged')

    read = prefetch.read(batches(), 1.0)
    assert next(read) == 1
    with pytest.raises(RuntimeError, match='damaged'):
        next(read)


def test_a_stalled_pipeline_says_so():
    released = threading.Event()

    def batches():
        yield 1
        released.wait(30)

    read = prefetch.read(batches(), 0.2 / 60)
    assert next(read) == 1
    start = time.monotonic()
    with pytest.raises(RunError, match='no batch arrived for 0'):
        next(read)
    assert time.monotonic() - start < 5
    released.set()


def test_reading_stops_where_nobody_takes():
    taken = []

    def batches():
        for i in range(1000):
            taken.append(i)
            yield i

    read = prefetch.read(batches(), 1.0)
    next(read)
    read.close()
    time.sleep(1.2)
    assert len(taken) <= 4
    assert not any(thread.name == 'batches' for thread in threading.enumerate())
