"""The training step: the same on every mesh, Adam's update and the running statistics included."""

import functools
import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import mesh_bytes
import mesh_table
import numpy as np
import pytest
from numpy.testing import assert_allclose
from support.paths import ROOT
from support.runs import adam_of
from support.tiny import tiny_config

from sreml_jax.model import resnet
from sreml_jax.run import Run
from sreml_jax.runtime import sharding
from sreml_jax.training import step

MEAN, STD = np.zeros(3, np.float32), np.ones(3, np.float32)


# Two orders of summation may differ by this many of float64's roundings. The float32 gradients of a mesh and
# of one device differ by up to 2**14 of float32's on the processors tried; a mean over one device's images in
# place of all, or a wrong scale, is a difference of 2**40 and more.
ROUNDINGS = 2**20 * np.finfo(np.float64).eps
BATCH = 8  # shared evenly by all meshes, as the 24 members are


@functools.cache
def trajectory(model_type, data, member, member_conv='matmul', platform='cpu'):
    """What a few steps in float64 do on a data x member mesh, by the program for a platform, on this machine.

    Returns:
      Losses, the first step's gradient, parameters and statistics after the last step, and embeddings.
    """
    config = tiny_config(
        model_type=model_type,
        mesh=(data, member),
        gpu_ids=tuple(range(data * member)),
        ensemble_size=24,
        batch_size=BATCH,
        eval_batch_size=BATCH,
        learning_rate=1e-4,
        member_conv=member_conv,
        image_size=8,
    )
    with mock.patch.object(jax, 'default_backend', lambda: platform):
        losses, gradient, state = mesh_table.trajectory(config, 'float64')
    run = Run.of(config)
    with jax.enable_x64():
        images = sharding.put(
            run.mesh, sharding.IMAGES, mesh_table.pictures(np.random.default_rng(1), config), BATCH
        )
        embed = step.make_embed_step(run.model.clone(dtype=np.dtype('float64')), run.mesh, MEAN, STD)
        return (
            losses,
            gradient,
            *map(jax.device_get, (state.params, state.batch_stats, embed(state.variables, images))),
        )


def assert_same(found, expected):
    """Each array at most `ROUNDINGS` times its length apart: a wrong scale is seen."""
    jax.tree.map(
        lambda a, b: assert_allclose(np.linalg.norm(a - b), 0, atol=ROUNDINGS * np.linalg.norm(b)),
        found,
        expected,
    )


@pytest.fixture
def few_blocks(monkeypatch):
    """The backbones with fewer of their blocks, which compile in less time."""
    # In a ResNet-50 only a second block of a stage has a shortcut without a convolution.
    for name, blocks in {'resnet18': (1, 1, 1, 1), 'resnet50': (1, 2, 1, 1)}.items():
        monkeypatch.setitem(resnet.BACKBONES, name, resnet.BACKBONES[name]._replace(blocks=blocks))


MESHES = [(1, 2), (2, 1), (1, 3), (2, 2), (4, 1), (2, 3), (1, 6), (1, 8), (2, 4), (8, 1)]


MESHES = [('resnet18', data, member, 'matmul', 'cpu') for data, member in MESHES]
MESHES += [('resnet50', *mesh, 'matmul', 'cpu') for mesh in ((2, 3), (4, 1), (1, 8))]
MESHES += [('resnet18', 2, 4, 'auto', 'cpu'), ('resnet18', 2, 2, 'auto', 'gpu')]


@pytest.mark.parametrize(('model_type', 'data', 'member', 'conv', 'platform'), MESHES)
def test_a_result_does_not_depend_on_the_mesh(model_type, data, member, conv, platform, few_blocks):
    """In float64: float32's rounding, which another processor does in another order, would hide faults."""
    found = trajectory(model_type, data, member, conv, platform)
    # One device convolves in the plain way: 'auto' is compared with it too.
    expected = trajectory(model_type, 1, 1)
    assert_same(found, expected)
    losses, *_, embeddings = found
    assert abs(losses[0] - losses[-1]) > 1e-3
    assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=ROUNDINGS)


@pytest.mark.parametrize('devices', [1, 3, 8])
def test_no_collective_moves_members(devices):
    """What the compiled step sends is the trunk's gradient and statistics; alone, it sends nothing."""
    config = tiny_config(gpu_ids=tuple(range(devices)), ensemble_size=24, image_size=8)
    compiled, state = mesh_bytes.compiled_step(config)
    moved = mesh_bytes.collective_bytes(compiled.as_text())
    trunk, members, statistics = (
        sum(4 * x.size for x in jax.tree.leaves(tree))
        for tree in (state.params['trunk'], state.params['members'], state.batch_stats['trunk'])
    )
    assert members > 10 * trunk
    if devices == 1:
        assert moved == {}
    else:
        assert trunk + statistics <= sum(moved.values()) <= trunk + statistics + 64
        # Of the members and their moments a device holds its share alone.
        held = compiled.memory_analysis().alias_size_in_bytes
        assert_allclose(held, 3 * (trunk + members / devices), rtol=0.05)


def test_the_script_prints_what_each_mesh_holds_and_sends():
    tiny = ['--devices=1,2', '--members=2', '--batch_size=2', '--image_size=32']
    done = subprocess.run(
        [sys.executable, 'launch/bench/mesh_bytes.py', *tiny], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *_, alone, shared = (line.split() for line in done.stdout.splitlines())
    assert (alone[:2], alone[3:]) == (['1', '2'], ['nothing'])
    assert shared[:2] == ['2', '1'] and float(shared[2]) < 0.6 * float(alone[2]) and 'all-reduce' in shared


def test_a_wrong_scale_is_a_difference():
    gradient = {'trunk': {'a': np.array([3.0, 4.0])}, 'members': {'b': np.ones((2, 2))}}
    half = {'trunk': {'a': np.array([1.5, 2.0])}, 'members': {'b': np.full((2, 2), 0.5)}}
    found, expected = (np.array([1.0, 2.0]), half, None), (np.array([1.0, 1.75]), gradient, None)
    assert mesh_table.differences(found, expected) == (0.25, 0.5, 0.5)


def test_the_sum_of_collectives_counts_what_a_program_says():
    program = """
      %a = (f32[2,3]{1,0}, bf16[4]{0}) all-reduce(%x, %y), replica_groups={{0,1}}
      %b = f32[8]{0} all-gather-start(%z), dimensions={0}
      %c = f32[5]{0} add(%all-reduce.1, %d)
    """
    assert mesh_bytes.collective_bytes(program) == {'all-reduce': 32, 'all-gather': 32}


def test_in_bfloat16_a_step_leaves_the_kernels_that_the_next_one_computes_with():
    run = Run.of(tiny_config(dtype='bfloat16', gpu_ids=(0, 1)))
    adam = adam_of(run)
    state = step.initial_state(run.model, adam, run.mesh, 0)
    before = jax.device_get(state.kernels)
    train_step = step.make_train_step(run.model, adam, run.mesh, np.zeros(3, 'f'), np.ones(3, 'f'))
    images, table = np.full((8, 32, 32, 3), 100, np.uint8), np.zeros((run.model.members, 8), np.int32)
    state, _ = train_step(state, images, np.zeros(8, np.int32), table)
    members, kernels = state.params['members'], state.kernels['members']
    assert len(jax.tree.leaves(kernels)) == sum(x.ndim == 5 for x in jax.tree.leaves(members))
    for stage in ('layer2', 'layer4'):
        kernel = kernels[stage]['0']['conv1']['kernel']
        assert kernel.dtype == jnp.bfloat16
        np.testing.assert_array_equal(kernel, members[stage]['0']['conv1']['kernel'].astype(jnp.bfloat16))
        assert (kernel != before['members'][stage]['0']['conv1']['kernel']).any()


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_a_computation_as_wide_as_the_parameters_takes_them(dtype):
    assert step.narrow_kernels({'members': {'kernel': jnp.ones((2, 1, 1, 1, 1))}}, dtype) is None


def test_members_lie_on_their_device_alone():
    config = tiny_config(gpu_ids=(0, 1, 2), ensemble_size=6)
    run = Run.of(config)
    state = step.initial_state(run.model, adam_of(run), run.mesh, 0)
    kernel = state.params['members']['fc']['kernel']
    assert [s.data.shape[0] for s in kernel.addressable_shards] == [2, 2, 2]
    assert state.opt_state[0].mu['members']['fc']['kernel'].sharding == kernel.sharding
    assert state.params['trunk']['conv1']['kernel'].sharding.is_fully_replicated


def test_initial_values_do_not_depend_on_the_mesh():
    states = [
        step.initial_state(run.model, adam_of(run), run.mesh, 7).params
        for run in (Run.of(tiny_config(gpu_ids=ids)) for ids in ((0,), (0, 1)))
    ]
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, states))
