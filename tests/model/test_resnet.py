"""The parts of a ResNet that are our own, against Flax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from numpy.testing import assert_array_equal

from sreml_jax.model.resnet import (
    BACKBONES,
    POOLS,
    BasicBlock,
    Bottleneck,
    Layers,
    generalized_mean_pool,
    max_pool,
)


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


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_generalized_mean_by_hand(dtype):
    x = jnp.array([[[[1, 0], [2, 0]], [[0, 0], [3, 0]]]], dtype)
    found = generalized_mean_pool(x)
    assert found.dtype == dtype
    # (1 + 8 + 27) / 4 = 9; where all is zero next to nothing is left, and no gradient but a finite one.
    np.testing.assert_allclose(
        np.float32(found), [[9 ** (1 / 3), 0]], rtol=1e-2 if dtype == 'bfloat16' else 1e-6, atol=2e-6
    )
    gradient = jax.grad(lambda x: generalized_mean_pool(x).sum().astype(jnp.float32))(x)
    expected = np.zeros((1, 2, 2, 2))
    expected[..., 0] = [[[1, 4], [0, 9]]] / np.float64(4 * 9 ** (2 / 3))
    np.testing.assert_allclose(np.float32(gradient), expected, rtol=1e-2, atol=1e-6)


def test_pools_lie_between_the_mean_and_the_maximum():
    x = jnp.asarray(np.random.default_rng(0).random((3, 4, 5, 6)), jnp.float32)
    average, gem = (POOLS[name](x) for name in ('average', 'gem'))
    np.testing.assert_allclose(average, x.mean((1, 2)), rtol=1e-6)
    assert (average < gem).all() and (gem < x.max((1, 2))).all()


@pytest.mark.parametrize('model_type', ['resnet18', 'resnet50'])
def test_a_strided_block_s_shortcut_reads_its_pixels_from_an_array_of_their_own(model_type):
    """See `xla.strided`."""
    backbone = BACKBONES[model_type]
    block = Bottleneck if backbone.bottleneck else BasicBlock
    x = jnp.zeros((1, 5, 4, 8))
    for stride, shape, barriers in ((1, (5, 4), 0), (2, (3, 2), 1)):
        model = block(8, stride, backbone, Layers(train=False))
        program = jax.jit(model.init_with_output).lower(jax.random.key(0), x)
        assert jax.tree.leaves(program.out_info[0])[0].shape[1:3] == shape
        assert program.as_text().count('optimization_barrier') == barriers
