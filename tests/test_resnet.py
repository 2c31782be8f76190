"""The parts of a ResNet that are our own, against Flax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from numpy.testing import assert_array_equal

from sreml_jax.model.resnet import max_pool


@pytest.mark.parametrize('size', [(1, 1), (2, 5), (7, 8)])
def test_max_pool_and_its_gradient(size):
    draw = np.random.RandomState(0).standard_normal
    x = jnp.asarray(draw((2, *size, 3)), jnp.float32)
    theirs = lambda x: nn.max_pool(nn.relu(x), (3, 3), (2, 2), ((1, 1), (1, 1)))  # noqa: E731
    expected, their_gradient = jax.vjp(theirs, x)
    found, gradient = jax.vjp(lambda x: max_pool(nn.relu(x)), x)
    assert_array_equal(found, expected)
    dy = jnp.asarray(draw(found.shape), jnp.float32)
    # A window without anything positive has its maxima in zeros, whose gradient relu stops.
    np.testing.assert_allclose(gradient(dy)[0], their_gradient(dy)[0], rtol=1e-6)
