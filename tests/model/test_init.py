"""Initial values: their distribution in closed form, different for every member."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sreml_jax.model import init
from sreml_jax.model.ensemble import Ensemble

MODEL = Ensemble('resnet18', 3, 5, width=32)


@pytest.fixture(scope='module')
def variables():
    shapes = init.shapes(MODEL)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.device_get(init.draw(shapes, 0, jax.tree.map(lambda _: here, shapes)))


def test_convolutions_are_normal_by_fan_out(variables):
    kernel = variables['params']['members']['layer3']['0']['conv2']['kernel'][1]
    assert kernel.shape == (3, 3, 128, 128)
    assert_allclose(kernel.std(), np.sqrt(2 / (9 * 128)), rtol=0.02)
    assert abs(kernel.mean()) < 4 * kernel.std() / np.sqrt(kernel.size)


def test_classifiers_are_uniform_by_fan_in(variables):
    fc = variables['params']['members']['fc']
    for values in (fc['kernel'], fc['bias']):
        assert np.abs(values).max() <= 1 / 16  # 256 inputs
    assert_allclose(fc['kernel'].std(), 1 / 16 / np.sqrt(3), rtol=0.05)
    assert np.ptp(fc['bias']) > 0


def test_batch_norm_starts_as_the_identity(variables):
    bn = variables['params']['members']['layer2']['0']['downsample_bn']
    assert_array_equal(bn['scale'], np.ones((3, 64)))
    assert_array_equal(bn['bias'], np.zeros((3, 64)))
    running = variables['batch_stats']['trunk']['bn1']
    assert_array_equal(running['mean'], np.zeros(32))
    assert_array_equal(running['var'], np.ones(32))


def test_members_and_layers_differ(variables):
    layer = variables['params']['members']['layer4']['1']
    kernels = [*layer['conv1']['kernel'], *layer['conv2']['kernel']]
    assert len({k.tobytes() for k in kernels}) == 6
