"""The options that the CPU compiler gets."""

import jax
import jax.numpy as jnp
import pytest

from sreml_jax.runtime.xla import compiler_options, keep


def readers(x):
    y = keep(jnp.maximum(2 * x + 1, 0))
    return y @ y, y + 1


@pytest.mark.parametrize(('options', 'barriers'), [(compiler_options(), 1), ({}, 0)])
def test_the_compiler_keeps_the_barrier_only_when_asked(options, barriers):
    compiled = jax.jit(readers, compiler_options=options).lower(jnp.ones((64, 64))).compile()
    assert compiled.as_text().count('opt-barrier(') == barriers
    assert float(compiled(jnp.ones((64, 64)))[0][0, 0]) == 64 * 9
