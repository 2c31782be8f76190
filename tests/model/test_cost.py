"""The arithmetic of a model, against the figures known of torchvision's."""

import pytest

from sreml_jax.model.cost import forward_flops
from sreml_jax.model.ensemble import Ensemble


@pytest.mark.parametrize(
    ('model_type', 'multiplications'),
    # torchvision's own "GFLOPS" (multiply-adds) of 224x224 images and 1000 classes.
    [('resnet18', 1.814e9), ('resnet34', 3.664e9), ('resnet50', 4.089e9), ('resnext50_32x4d', 4.230e9)],
)
def test_one_member_is_torchvisions_network(model_type, multiplications):
    assert forward_flops(Ensemble(model_type, 1, 1000), 224) / 2 == pytest.approx(multiplications, rel=1e-3)


def test_members_share_the_trunk():
    one, two, three = (forward_flops(Ensemble('resnet18', n, 12), 64) for n in (1, 2, 3))
    assert two - one == three - two
    trunk = one - (two - one)
    # conv1: 32x32 of 64 x 147 products; layer1: four 3x3 convolutions of 64 to 64 channels on 16x16.
    assert trunk == 2 * (32 * 32 * 64 * 147 + 4 * 16 * 16 * 64 * 576)
