"""Batch normalization beside flax's own, which keeps the same parameters and statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from numpy.testing import assert_allclose

from sreml_jax.model.batch_norm import BatchNorm


def theirs(train, axis=None, dtype=None):
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, axis_name=axis, dtype=dtype
    )


def activations(seed=0, shape=(4, 5, 6, 8)):
    """Channels of unlike means and deviations."""
    random = np.random.default_rng(seed)
    return jnp.asarray(random.normal(random.normal(0, 3, 8), random.uniform(0.1, 4, 8), shape), jnp.float32)


def variables():
    random = np.random.default_rng(1)
    return {
        'params': {k: jnp.asarray(random.normal(1, 1, 8), jnp.float32) for k in ('scale', 'bias')},
        'batch_stats': {k: jnp.asarray(random.uniform(0.5, 2, 8), jnp.float32) for k in ('mean', 'var')},
    }


def test_initial_values_and_names_are_flaxs():
    key, x = jax.random.key(0), activations()
    jax.tree.map(np.testing.assert_array_equal, BatchNorm(True).init(key, x), theirs(True).init(key, x))


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('dtype', [None, jnp.bfloat16])
def test_values_statistics_and_gradients_are_flaxs(train, dtype):
    x, weights = activations().astype(dtype or jnp.float32), activations(2)

    def run(module):
        def loss(params, x):
            y, changed = module.apply({**variables(), 'params': params}, x, mutable=['batch_stats'])
            return (y * weights).sum(), (y, changed)

        gradients, aux = jax.grad(loss, (0, 1), has_aux=True)(variables()['params'], x)
        return gradients, aux

    ours, expected = run(BatchNorm(train, dtype=dtype)), run(theirs(train, dtype=dtype))
    assert ours[1][0].dtype == expected[1][0].dtype == (dtype or jnp.float32)
    tolerance = 1e-4 if dtype is None else 2e-2  # sums of 120 numbers, in another order
    jax.tree.map(lambda a, b: assert_allclose(a, b, tolerance, 10 * tolerance), ours, expected)
    jax.tree.map(lambda a, b: assert_allclose(a, b, 1e-5), ours[1][1], expected[1][1])  # float32, always


def test_a_batch_shared_by_devices_is_one_batch():
    x = activations()
    module = BatchNorm(True, axis='data')
    shared, changed = jax.vmap(
        lambda part: module.apply(variables(), part, mutable=['batch_stats']), axis_name='data'
    )(x.reshape(2, 2, *x.shape[1:]))
    whole, expected = BatchNorm(True).apply(variables(), x, mutable=['batch_stats'])
    assert_allclose(shared.reshape(x.shape), whole, 1e-5, 1e-5)
    jax.tree.map(lambda a, b: assert_allclose(a[1], b, 1e-5), changed, expected)


def test_what_is_kept_for_the_backward_pass_is_the_activation_alone():
    """Flax keeps the centered activations besides."""
    x = activations()

    def backward(x):
        return jax.vjp(lambda x: BatchNorm(True).apply(variables(), x, mutable=['batch_stats'])[0], x)[1]

    program = jax.make_jaxpr(backward)(x).jaxpr
    kept = {id(v) for v in program.outvars if v.aval.shape == x.shape} - {id(program.invars[0])}
    assert len(kept) <= 1  # twice the activation, a constant's multiple, which XLA computes again
