"""Batch normalization, shortcut and relu beside flax's own, which keep the same parameters and statistics."""

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


class Theirs(nn.Module):
    """flax's layers, in the order of a ResNet."""

    train: bool
    dtype: jnp.dtype | None

    @nn.compact
    def __call__(self, x, shortcut=None, relu=False):
        y = theirs(self.train, dtype=self.dtype)(x)
        y = y if shortcut is None else y + shortcut
        return nn.relu(y) if relu else y


@pytest.fixture(params=['cpu', 'gpu'])
def platform(request, monkeypatch):
    """Programs for either, which both run on this machine."""
    monkeypatch.setattr(jax, 'default_backend', lambda: request.param)


@pytest.mark.usefixtures('platform')
@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('dtype', [None, jnp.bfloat16])
@pytest.mark.parametrize('then', ['nothing', 'relu', 'shortcut and relu'])
def test_values_statistics_and_gradients_are_flaxs(train, dtype, then):
    x, weights = activations().astype(dtype or jnp.float32), activations(2)
    shortcut = activations(3).astype(x.dtype) if then == 'shortcut and relu' else None

    def run(module, unwrap=lambda tree: tree):
        def loss(params, x, shortcut):
            y, changed = module.apply(
                {**jax.tree.map(unwrap, variables(), is_leaf=lambda tree: 'scale' in tree or 'mean' in tree),
                 'params': unwrap(params)},
                x, shortcut, relu=then != 'nothing', mutable=['batch_stats'],
            )  # fmt: skip
            return (y * weights).sum(), (y, jax.tree.leaves(changed))

        return jax.grad(loss, (0, 1, 2), has_aux=True)(variables()['params'], x, shortcut)

    ours = run(BatchNorm(train, dtype=dtype))
    expected = run(Theirs(train, dtype), lambda tree: {'BatchNorm_0': tree})
    assert ours[1][0].dtype == expected[1][0].dtype == (dtype or jnp.float32)
    tolerance = 1e-4 if dtype is None else 2e-2  # sums of 120 numbers, in another order
    jax.tree.map(lambda a, b: assert_allclose(a, b, tolerance, 10 * tolerance), ours, expected)
    jax.tree.map(lambda a, b: assert_allclose(a, b, 1e-5), ours[1][1], expected[1][1])  # float32, always


@pytest.mark.usefixtures('platform')
def test_a_batch_shared_by_devices_is_one_batch():
    x = activations()
    module = BatchNorm(True, axis='data')
    shared, changed = jax.vmap(
        lambda part: module.apply(variables(), part, mutable=['batch_stats']), axis_name='data'
    )(x.reshape(2, 2, *x.shape[1:]))
    whole, expected = BatchNorm(True).apply(variables(), x, mutable=['batch_stats'])
    assert_allclose(shared.reshape(x.shape), whole, 1e-5, 1e-5)
    jax.tree.map(lambda a, b: assert_allclose(a[1], b, 1e-5), changed, expected)


@pytest.mark.parametrize(
    ('dtype', 'relu', 'shortcut'),
    [
        (jnp.float32, False, False),
        *((dtype, True, shortcut) for dtype in (jnp.float32, jnp.bfloat16) for shortcut in (False, True)),
    ],
)
def test_what_is_kept_for_the_backward_pass_has_the_dtype_of_the_computation(dtype, relu, shortcut):
    """The activation alone, and after a shortcut the result, which the next convolution keeps as well.

    Flax keeps the centered activations besides, in float32.
    """
    x, other = activations().astype(dtype), activations(3).astype(dtype) if shortcut else None

    @jax.jit
    def forward(x):
        def run(x):
            module = BatchNorm(True, dtype=dtype)
            return module.apply(variables(), x, other, relu=relu, mutable=['batch_stats'])[0]

        return jax.vjp(run, x)

    y, backward = forward(x)
    kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.size >= x.size]
    assert {leaf.dtype for leaf in kept} == {jnp.dtype(dtype)}
    found = {np.asarray(leaf, np.float32).tobytes() for leaf in kept}
    assert found == {np.asarray(array, np.float32).tobytes() for array in ([x, y] if shortcut else [x])}


def test_a_shortcut_needs_relu():
    with pytest.raises(ValueError, match='only before relu'):
        BatchNorm(True).init(jax.random.key(0), activations(), activations())
