"""Products of pixels against the plain einsum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sreml_jax.model.conv.product import product
from sreml_jax.runtime.xla import compiler_options

SIZES = {'m': 2, 'n': 3, 'h': 4, 'w': 5, 'c': 6, 'f': 7}


def operand(axes, seed):
    shape = [SIZES[axis] for axis in axes]
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    'subscripts',
    ['mnhwc,mcf->mnhwf', 'nhwc,mcf->mnhwf', 'mnhwf,mcf->nhwc', 'mnhwc,mnhwf->mcf', 'nhwc,mnhwf->mcf'],
)
def test_equals_einsum(subscripts):
    a, b = (operand(axes, seed) for seed, axes in enumerate(subscripts.split('->')[0].split(',')))
    found = product(subscripts, a, b, precision='highest')
    np.testing.assert_allclose(found, np.einsum(subscripts, a, b), rtol=1e-4, atol=1e-5)


def test_of_no_pixels_is_zero():
    found = product('mnhwc,mnhwf->mcf', np.ones((2, 3, 0, 5, 6)), np.ones((2, 3, 0, 5, 7)))
    assert found.shape == (2, 6, 7) and not found.any()


def test_a_cpu_multiplies_pixels_as_they_lie():
    """The plain einsum's operands are copied into another order first."""

    def copies(einsum):
        kernel_gradient = jax.jit(
            lambda x, dy: einsum('mnhwc,mnhwf->mcf', x, dy), compiler_options=compiler_options()
        )
        x, dy = jnp.asarray(operand('mnhwc', 0)), jnp.asarray(operand('mnhwf', 1))
        text = kernel_gradient.lower(x, dy).compile().as_text()
        return text.count('copy(') + text.count('transpose(')

    assert copies(product) == 0 < copies(jnp.einsum)
