"""The training step: the same on every mesh, Adam's update and the running statistics included."""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import mesh_bytes
import numpy as np
import pytest
from numpy.testing import assert_allclose
from tiny import tiny_config

from sreml_jax import mesh as meshes
from sreml_jax.learning import meta_classes, step
from sreml_jax.model import resnet
from sreml_jax.run import Run

STEPS = 5
MEAN = STD = np.full(3, 0.5, np.float32)


def wide(tree):
    """The tree in float64."""
    return jax.tree.map(lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, tree)


@functools.cache
def trajectory(model_type, data, member, dtype='float32'):
    """Losses of a few steps and what they end in, on a data x member mesh."""
    with jax.enable_x64(dtype == 'float64'):
        config = tiny_config(
            model_type=model_type,
            mesh=(data, member),
            gpu_ids=tuple(range(data * member)),
            ensemble_size=24,
            batch_size=24,
            learning_rate=1e-4,
            member_conv='grouped',
            image_size=8,
        )
        run = Run.of(config)
        adam = run.adam(STEPS)
        state = step.initial_state(run.model, adam, run.mesh, 0)
        model = run.model
        if dtype == 'float64':
            model, state = model.clone(dtype=np.dtype(dtype)), wide(state)
        table = meshes.put_whole(run.mesh, meshes.META_TABLE, meta_classes.draw(8, 24, 4, 0))
        train_step = step.make_train_step(model, adam, run.mesh, MEAN, STD)
        random = np.random.default_rng(0)
        losses = []
        for _ in range(STEPS):
            images = random.integers(0, 255, (24, 8, 8, 3), dtype=np.uint8)
            labels = random.integers(0, 8, 24, dtype=np.int32)
            put = functools.partial(meshes.put, run.mesh, meshes.IMAGES, rows=24)
            state, metrics = train_step(state, put(images), put(labels), table)
            losses.append(float(metrics['loss']))
        embeddings = step.make_embed_step(model, run.mesh, MEAN, STD)(state.variables, put(images))
        return losses, *map(jax.device_get, (state.params, state.batch_stats, embeddings))


@pytest.fixture
def few_blocks(monkeypatch):
    """The backbones with fewer of their blocks, which compile in less time."""
    for name in ('resnet18', 'resnet50'):
        backbone = resnet.BACKBONES[name]._replace(blocks=(1, 2, 1, 1))
        monkeypatch.setitem(resnet.BACKBONES, name, backbone)


MESHES = [(1, 2), (2, 1), (1, 3), (2, 2), (4, 1), (2, 3), (1, 6), (1, 8), (2, 4), (8, 1)]


@pytest.mark.parametrize(('data', 'member'), MESHES)
def test_a_result_does_not_depend_on_the_mesh(data, member, few_blocks):
    losses, params, stats, embeddings = trajectory('resnet18', data, member)
    one_losses, one_params, one_stats, one_embeddings = trajectory('resnet18', 1, 1)
    assert_allclose(losses, one_losses, rtol=1e-5)
    assert losses[0] != losses[-1]
    # Adam divides by the gradient's size: where that is next to nothing, rounding decides the direction.
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=2e-4), params['trunk'], one_params['trunk'])
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-3, atol=1e-4), stats, one_stats)
    assert_allclose(embeddings, one_embeddings, atol=1e-3)
    assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(('data', 'member'), [(2, 3), (1, 8)])
def test_bottlenecks_do_not_depend_on_the_mesh(data, member, few_blocks):
    """In float64: in float32 their statistics over 24 numbers amplify rounding to percents in 3 steps."""
    losses, params, *_ = trajectory('resnet50', data, member, 'float64')
    one_losses, one_params, *_ = trajectory('resnet50', 1, 1, 'float64')
    assert_allclose(losses, one_losses, rtol=1e-5)
    jax.tree.map(functools.partial(assert_allclose, atol=1e-6), params, one_params)
    assert abs(losses[0] - losses[-1]) > 1e-3


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
        assert trunk <= sum(moved.values()) <= trunk + statistics + 64
        # Of the members and their moments a device holds its share alone.
        held = compiled.memory_analysis().alias_size_in_bytes
        assert_allclose(held, 3 * (trunk + members / devices), rtol=0.05)


def test_the_script_prints_what_each_mesh_holds_and_sends():
    tiny = ['--devices=1,2', '--members=2', '--batch_size=2', '--image_size=32']
    root = Path(mesh_bytes.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, 'launch/mesh_bytes.py', *tiny], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *_, alone, shared = (line.split() for line in done.stdout.splitlines())
    assert (alone[:2], alone[3:]) == (['1', '2'], ['nothing'])
    assert shared[:2] == ['2', '1'] and float(shared[2]) < 0.6 * float(alone[2]) and 'all-reduce' in shared


def test_the_sum_of_collectives_counts_what_a_program_says():
    program = """
      %a = (f32[2,3]{1,0}, bf16[4]{0}) all-reduce(%x, %y), replica_groups={{0,1}}
      %b = f32[8]{0} all-gather-start(%z), dimensions={0}
      %c = f32[5]{0} add(%all-reduce.1, %d)
    """
    assert mesh_bytes.collective_bytes(program) == {'all-reduce': 32, 'all-gather': 32}


def test_members_lie_on_their_device_alone():
    config = tiny_config(gpu_ids=(0, 1, 2), ensemble_size=6)
    run = Run.of(config)
    state = step.initial_state(run.model, run.adam(1), run.mesh, 0)
    kernel = state.params['members']['fc']['kernel']
    assert [s.data.shape[0] for s in kernel.addressable_shards] == [2, 2, 2]
    assert state.opt_state[0].mu['members']['fc']['kernel'].sharding == kernel.sharding
    assert state.params['trunk']['conv1']['kernel'].sharding.is_fully_replicated


def test_initial_values_do_not_depend_on_the_mesh():
    states = [
        step.initial_state(run.model, run.adam(1), run.mesh, 7).params
        for run in (Run.of(tiny_config(gpu_ids=ids)) for ids in ((0,), (0, 1)))
    ]
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, states))
