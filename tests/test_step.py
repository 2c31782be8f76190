"""The training step: the same on every mesh, Adam's update and the running statistics included."""

import functools

import jax
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose
from tiny import tiny_config

from sreml_jax import mesh as meshes
from sreml_jax.learning import meta_classes, step
from sreml_jax.run import Run

STEPS = 5
MEAN = STD = np.full(3, 0.5, np.float32)


@functools.cache
def trajectory(model_type, data, member):
    """Losses of a few steps and what they end in, on a data x member mesh."""
    config = tiny_config(
        model_type=model_type,
        mesh=(data, member),
        gpu_ids=tuple(range(data * member)),
        ensemble_size=12,
        batch_size=12,
        member_conv='grouped',
        image_size=8,
    )
    run = Run.of(config)
    adam = run.adam(STEPS)
    state = step.initial_state(run.model, adam, run.mesh, 0)
    table = meshes.put(run.mesh, meshes.META_TABLE, meta_classes.draw(8, 12, 4, 0), 12)
    train_step = step.make_train_step(run.model, adam, run.mesh, MEAN, STD)
    random = np.random.default_rng(0)
    losses = []
    for _ in range(STEPS):
        images = random.integers(0, 255, (12, 8, 8, 3), dtype=np.uint8)
        labels = random.integers(0, 8, 12, dtype=np.int32)
        put = functools.partial(meshes.put, run.mesh, meshes.IMAGES, rows=12)
        state, metrics = train_step(state, put(images), put(labels), table)
        losses.append(float(metrics['loss']))
    embeddings = step.make_embed_step(run.model, run.mesh, MEAN, STD)(state.variables, put(images))
    return losses, jax.device_get(state.params), jax.device_get(state.batch_stats), np.asarray(embeddings)


MESHES = [('resnet18', *m) for m in [(1, 2), (2, 1), (1, 3), (2, 2), (4, 1), (2, 3), (1, 6), (2, 4)]]


@pytest.mark.parametrize(('model_type', 'data', 'member'), MESHES)
def test_a_result_does_not_depend_on_the_mesh(model_type, data, member):
    losses, params, stats, embeddings = trajectory(model_type, data, member)
    one_losses, one_params, one_stats, one_embeddings = trajectory(model_type, 1, 1)
    assert_allclose(losses, one_losses, rtol=1e-5)
    assert losses[0] != losses[-1]
    # Adam divides by the gradient's size: where that is next to nothing, rounding decides the direction.
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=2e-4), params['trunk'], one_params['trunk'])
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-3, atol=1e-4), stats, one_stats)
    assert_allclose(embeddings, one_embeddings, atol=1e-3)
    assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)


def test_gradients_of_the_deep_backbone_do_not_depend_on_the_mesh():
    """In float64: in float32 its batch statistics over 12 numbers amplify rounding to percents in 3 steps."""
    gradients = []
    with jax.enable_x64(True):
        for data, member in ((1, 1), (2, 3)):
            config = tiny_config(
                model_type='resnet50',
                mesh=(data, member),
                gpu_ids=tuple(range(data * member)),
                ensemble_size=12,
                batch_size=12,
                image_size=8,
            )
            run = Run.of(config)
            model, plain = run.model.clone(dtype=np.dtype('float64')), optax.sgd(1.0)
            state = step.initial_state(model, plain, run.mesh, 0)
            wide = lambda x: x.astype(np.float64) if x.dtype == np.float32 else x  # noqa: E731
            state = jax.tree.map(wide, state)
            before = jax.device_get(state.params)
            random = np.random.default_rng(0)
            put = functools.partial(meshes.put, run.mesh, meshes.IMAGES, rows=12)
            images = put(random.integers(0, 255, (12, 8, 8, 3), dtype=np.uint8))
            labels = put(random.integers(0, 8, 12, dtype=np.int32))
            table = meshes.put(run.mesh, meshes.META_TABLE, meta_classes.draw(8, 12, 4, 0), 12)
            state, _ = step.make_train_step(model, plain, run.mesh, MEAN, STD)(state, images, labels, table)
            # One step of plain descent at rate 1 subtracts the gradient.
            gradients.append(jax.tree.map(np.subtract, before, jax.device_get(state.params)))
    one, many = map(jax.tree.leaves, gradients)
    for a, b in zip(one, many, strict=True):
        assert_allclose(a, b, rtol=0, atol=1e-9 * max(1, np.abs(a).max()))
    assert max(np.abs(a).max() for a in one) > 0.1


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
