"""Reads that orbax leaves pending when a file fails say nothing, whenever they are freed; others do."""

import gc
import sys
import warnings

import pytest

from sreml_jax.training import checkpoint_errors

NEVER_AWAITED = "coroutine 'read' was never awaited"


@pytest.mark.parametrize(
    ('file', 'expected'),
    [('site-packages/orbax/checkpoint/store.py', []), ('server/read.py', [NEVER_AWAITED])],
)
def test_a_coroutine_freed_before_it_began(monkeypatch, file, expected):
    defined, said = {}, []
    exec(compile('async def read(): pass', f'/usr/lib/{file}', 'exec'), defined)
    monkeypatch.setattr(sys, 'unraisablehook', lambda unraisable: said.append(str(unraisable.exc_value)))
    with warnings.catch_warnings():
        checkpoint_errors.hush()
    # Warnings are errors and the filter of `hush` is gone, as in a test that comes after one of checkpoints.
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        orphan = defined['read']()
        del orphan
        gc.collect()
    assert said == expected
