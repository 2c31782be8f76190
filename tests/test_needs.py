"""What training holds in memory, beside what XLA counts, and the size of a checkpoint."""

import jax
import numpy as np
import pytest
from support.golden import BACKBONES
from support.runs import abstract_state, adam_of
from support.tiny import tiny_config

from sreml_jax import describe, needs
from sreml_jax.configs import default
from sreml_jax.model import init, resnet
from sreml_jax.model.conv import implicit
from sreml_jax.model.cost import kept_bytes
from sreml_jax.model.ensemble import Ensemble
from sreml_jax.run import Run
from sreml_jax.training import step


def test_the_chosen_devices_of_every_host_share_the_members(monkeypatch):
    config = tiny_config(ensemble_size=24, gpu_ids=(0, 2, 3))
    assert needs.mesh_shape(config) == (1, 3)
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    assert needs.mesh_shape(config) == (1, 6)
    config.gpu_ids = ()
    assert needs.mesh_shape(config) == (1, jax.device_count())


def test_tiles_are_counted_where_winograd_runs_alone():
    def ensemble(conv):
        return Ensemble('resnet18', 2, 12, conv=conv, dtype=np.dtype(np.float32))

    name = "Winograd's tiles and kernels"
    of_members = kept_bytes(ensemble('winograd'), 96, 12)[name]
    assert name not in kept_bytes(ensemble('grouped'), 96, 12)
    # By 'auto' the trunk's four layers of 64 to 64 channels too, on 24x24 images; but not layer4 on 3x3 ones.
    trunk = 4 * 16 * 4 * (12 * 12 * 12 * 64 + 64 * 64)
    layer4 = 2 * 4 * (25 * (12 * 4 * 256 + 256 * 512) + 3 * 16 * (12 * 4 * 512 + 512 * 512))
    assert kept_bytes(ensemble('auto'), 96, 12)[name] == of_members + trunk - layer4


@pytest.mark.parametrize(
    'fields',
    [
        {'model_type': 'resnet18', 'image_size': 96},
        {'model_type': 'resnext50_32x4d', 'image_size': 64},
        {'model_type': 'resnet50', 'image_size': 128, 'width': 16, 'remat': True},
        {'model_type': 'resnet18', 'image_size': 32, 'width': 16, 'stem': 'small', 'dtype': 'bfloat16'},
    ],
    ids=str,
)
def test_the_memory_is_within_15_percent_of_the_compiled_step_s(fields, monkeypatch):
    if (
        fields['model_type'] == 'resnext50_32x4d'
    ):  # fewer blocks compile in less time, and are estimated alike
        backbone = resnet.BACKBONES[fields['model_type']]._replace(blocks=(1, 2, 2, 1))
        monkeypatch.setitem(resnet.BACKBONES, fields['model_type'], backbone)
    config = default.get_config()
    config.update(ensemble_size=2, gpu_ids=(0,), **fields)
    run = Run.of(config)
    rows, pixels = config.batch_size, config.image_size
    train_step = step.make_train_step(run.model, adam_of(run), run.mesh, np.zeros(3, 'f'), np.ones(3, 'f'))
    images, labels, table = (
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((rows, pixels, pixels, 3), np.uint8), ((rows,), np.int32), ((2, 50), np.int32))
    )
    sizes = train_step.lower(abstract_state(run), images, labels, table).compile().memory_analysis()
    held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    assert needs.device_memory(config) == pytest.approx(held + sizes.temp_size_in_bytes, rel=0.15)


# GiB of state and temporary memory that XLA counted for an H100 (`python launch/bench compile`, jax 0.10.2,
# 2026-11-28; 48 members, 256x256, batch 12): bfloat16, with remat, float32, with remat.
COUNTED = {
    'resnet18': (10.92, 8.74, 13.60, 9.19),
    'resnet34': (20.53, 16.65, 25.87, 17.36),
    'resnet50': (33.64, 20.46, 49.85, 23.37),
    'resnext50_32x4d': (37.70, 20.15, 59.08, 23.91),
}


@pytest.mark.parametrize('remat', [False, True])
@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
@pytest.mark.parametrize('backbone', BACKBONES)
def test_the_memory_of_a_gpu_is_within_10_percent_of_the_compilers_count(backbone, dtype, remat, monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    config = default.get_config()
    config.update(model_type=backbone, dtype=dtype, remat=remat, mesh=(1, 1))
    counted = COUNTED[backbone][2 * (dtype == 'float32') + remat]
    assert needs.device_memory(config) / 2**30 == pytest.approx(counted, rel=0.1)


# The same of bfloat16, with and without remat, where `implicit`'s kernels run (Triton 3.6).
COUNTED_WITH_KERNELS = {
    'resnet18': (9.36, 7.96),
    'resnet34': (18.10, 14.83),
    'resnet50': (31.60, 19.94),
    'resnext50_32x4d': (33.40, 20.17),
}


@pytest.mark.parametrize('remat', [False, True])
@pytest.mark.parametrize('backbone', BACKBONES)
def test_the_memory_of_a_hopper_gpu_is_within_10_percent_of_the_compilers_count(backbone, remat, monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(implicit, 'available', lambda: True)
    config = default.get_config()
    config.update(model_type=backbone, dtype='bfloat16', remat=remat, mesh=(1, 1))
    counted = COUNTED_WITH_KERNELS[backbone][remat]
    assert needs.device_memory(config) / 2**30 == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize(
    ('fields', 'more'),
    [
        ({}, 0),
        ({'member_conv': 'matmul'}, 1.21),  # XLA's ways: all gradients in float32, not layer4's in bfloat16
        ({'skip_nonfinite': 1}, 0.24),  # all gradients in bfloat16
    ],
    ids=str,
)
def test_what_waits_for_the_update_on_a_hopper_gpu(fields, more, monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(implicit, 'available', lambda: True)
    config = default.get_config()
    config.update(model_type='resnet18', dtype='bfloat16', mesh=(1, 1), **fields)
    found = needs.on_device(config)
    layer4 = 48 * (256 * 512 * 10 + 3 * 512 * 512 * 9 + 10 * 512)  # kernels and BatchNorm
    assert found['gradients'] == pytest.approx(2 * layer4 + more * 2**30, rel=0.01)


def test_a_checkpoint_holds_weights_moments_and_statistics(tmp_path):
    config = tiny_config()
    run = Run.of(config)
    state = step.initial_state(run.model, adam_of(run), run.mesh, 0)
    arrays = jax.tree.leaves((state.params, state.batch_stats, state.opt_state))
    assert needs.checkpoint_size(init.shapes(run.model)) == pytest.approx(
        sum(x.nbytes for x in arrays), abs=8
    )
    assert 'a checkpoint on disk' in describe.describe(config)
