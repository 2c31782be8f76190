"""What --mode=describe prints: the seed's table of parameters."""

import pytest
from support.golden import BACKBONES, SEED_TABLE

from sreml_jax import describe
from sreml_jax.configs import default


@pytest.mark.parametrize('meta_classes', SEED_TABLE)
@pytest.mark.parametrize('backbone', BACKBONES)
def test_parameters_are_the_seeds(backbone, meta_classes):
    config = default.get_config()
    config.update(model_type=backbone, meta_class_size=meta_classes)
    expected = f'{SEED_TABLE[meta_classes][BACKBONES.index(backbone)]:,}'
    told = describe.describe(config).splitlines()
    assert [line.split()[-1] for line in told if line.startswith('parameters, total')] == [expected]
