"""Barriers, the options that the CPU compiler gets, and the order of activations in a GPU's memory."""

import jax
import jax.numpy as jnp
import pytest

from sreml_jax.runtime.xla import compiler_options, keep, members_beside_channels, strided


def readers(x):
    y = keep(jnp.maximum(2 * x + 1, 0))
    return y @ y, y + 1


@pytest.mark.parametrize(('options', 'barriers'), [(compiler_options(), 1), ({}, 0)])
def test_the_compiler_keeps_the_barrier_only_when_asked(options, barriers):
    compiled = jax.jit(readers, compiler_options=options).lower(jnp.ones((64, 64))).compile()
    assert compiled.as_text().count('opt-barrier(') == barriers
    assert float(compiled(jnp.ones((64, 64)))[0][0, 0]) == 64 * 9


def test_members_lie_beside_channels_in_memory(monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    x = jnp.arange(2 * 3 * 4 * 5 * 6, dtype=jnp.float32).reshape(2, 3, 4, 5, 6)
    program = jax.jit(lambda x: members_beside_channels(x + 1) * 2).lower(x).compile()
    assert 'f32[2,3,4,5,6]{4,0,3,2,1}' in program.as_text()
    assert jnp.array_equal(program(x), (x + 1) * 2)
    for other in (x[:1], x[0]):  # one member, and images without members
        assert members_beside_channels(other) is other


def test_strided_pixels_are_written_by_themselves():
    """A product of XLA's GPU compiler would read them with their stride, which can end the process."""
    x = jnp.arange(2 * 5 * 4 * 3, dtype=jnp.float32).reshape(2, 5, 4, 3)
    program = jax.jit(lambda x: strided(x, 2) + 1).lower(x)
    assert program.as_text().count('optimization_barrier') == 1
    assert jnp.array_equal(program.compile()(x), x[:, ::2, ::2] + 1)
    assert strided(x, 1) is x
