"""What --mode=describe tells: the seed's table of parameters, and whose devices share the members."""

import jax
import pytest
from test_ensemble import BACKBONES, SEED_TABLE
from tiny import tiny_config

from configs import default
from sreml_jax import describe


@pytest.mark.parametrize('meta_classes', SEED_TABLE)
@pytest.mark.parametrize('backbone', BACKBONES)
def test_parameters_are_the_seeds(backbone, meta_classes, monkeypatch):
    monkeypatch.setattr(describe, 'training_memory', lambda *_: {})  # takes most of the time
    config = default.get_config()
    config.update(model_type=backbone, meta_class_size=meta_classes)
    expected = f'{SEED_TABLE[meta_classes][BACKBONES.index(backbone)]:,}'
    told = describe.describe(config).splitlines()
    assert [line.split()[-1] for line in told if line.startswith('parameters, total')] == [expected]


def test_the_chosen_devices_of_every_host_share_the_members(monkeypatch):
    config = tiny_config(ensemble_size=24, gpu_ids=(0, 2, 3))
    assert describe.mesh_shape(config) == (1, 3)
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    assert describe.mesh_shape(config) == (1, 6)
    config.gpu_ids = ()
    assert describe.mesh_shape(config) == (1, jax.device_count())
