"""What the benchmarks compute by relu's kernel, which is interpreted here."""

import importlib

import jax
import numpy as np
import pytest
from support import interpreter

from sreml_jax.model.conv import implicit
from sreml_jax.model.conv.geometry import Geometry


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    interpreter.install(monkeypatch, np.float32)


def test_the_check_notices_a_wrong_gradient(monkeypatch):
    check = importlib.import_module('check')
    monkeypatch.setattr(check, 'OF_RELU', ((3, 2, 1, 0), (1, 1, 1, 2)))
    assert max(check.relu_gradients('float32').values()) < 1e-5
    right = implicit.relu_gradient

    def exchanged(*given):
        d, of_addend, of_factor = right(*given)
        return d, of_factor, of_addend

    monkeypatch.setattr(implicit, 'relu_gradient', exchanged)
    found = check.relu_gradients('float32')
    assert found['gradient of relu'] > 0.1
    assert found['output'] < 1e-5


def test_the_check_has_masks_that_rounding_does_not_change(monkeypatch):
    """XLA's bfloat16 beside its float32, for the interpreter has no products of bfloat16."""
    check = importlib.import_module('check')
    monkeypatch.setattr(check, 'OF_RELU', ((1, 1, 1, 2), (3, 2, 4, 0)))
    assert max(check.relu_gradients('bfloat16').values()) < check.BOUNDS['bfloat16']


@pytest.mark.parametrize('shortcut', [False, True])
def test_both_ways_that_are_timed_compute_the_same(shortcut, monkeypatch):
    x, dy = np.random.default_rng(0).standard_normal((2, 2, 3, 4, 5, 32), np.float32)
    w = np.random.default_rng(1).standard_normal((2, 3, 3, 32, 32), np.float32)
    given = (*map(jax.numpy.asarray, (x, w, dy)), Geometry((1, 1), ((1, 1), (1, 1)), 1), shortcut)
    way = importlib.import_module('convs').relu_gradient
    one = jax.tree.leaves(way('one kernel', *given)())
    monkeypatch.setattr(implicit, 'can_run', lambda *_: False)
    apart = jax.tree.leaves(way('apart', *given)())
    for ours, theirs in zip(one, apart, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
