"""Reads that orbax leaves pending when a file fails say nothing, whenever they are freed; others do."""

import gc
import sys
import warnings

import pytest

from sreml_jax.training import checkpoint_errors

ORBAX, OTHER = '/usr/lib/orbax/checkpoint/store.py', '/usr/lib/server/read.py'
READ = """
import asyncio

async def read():
    try:
        await asyncio.sleep(0)
    finally:
        raise ValueError('a mistake')
"""


@pytest.fixture
def said(monkeypatch):
    """What the hook of `hush` passes on."""
    found = []
    monkeypatch.setattr(sys, 'unraisablehook', lambda unraisable: found.append(str(unraisable.exc_value)))
    with warnings.catch_warnings():
        checkpoint_errors.hush()
    return found


@pytest.mark.parametrize(
    ('file', 'begun', 'expected'),
    [
        (ORBAX, False, []),
        (OTHER, False, ["coroutine 'read' was never awaited"]),
        (ORBAX, True, ['a mistake']),
    ],
)
def test_what_is_said_of_a_coroutine_that_is_freed(said, file, begun, expected):
    defined = {}
    exec(compile(READ, file, 'exec'), defined)
    # Warnings are errors and the filter of `hush` is gone, as in a test that comes after one of checkpoints.
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        orphan = defined['read']()
        if begun:
            orphan.send(None)
        del orphan
        gc.collect()
    assert said == expected


def test_an_error_of_another_finalizer_is_reported(said):
    class Closed:
        def __del__(self):
            raise ValueError('not closed')

    Closed()
    gc.collect()
    assert said == ['not closed']
