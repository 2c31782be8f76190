"""The options that the CPU compiler gets, and the order of activations in a GPU's memory."""

import jax
import jax.numpy as jnp
import pytest

from sreml_jax.runtime.xla import compiler_options, keep, members_beside_channels


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
