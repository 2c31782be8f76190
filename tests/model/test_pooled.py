"""Embeddings of pooled features: config.embedding='pooled'."""

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from numpy.testing import assert_allclose
from support.golden import Case
from support.runs import NoSignals
from support.tiny import tiny_config, tiny_dataset

from sreml_jax.embedder import Embedder
from sreml_jax.evaluate import evaluate
from sreml_jax.export import function
from sreml_jax.model.ensemble import Ensemble, embeddings
from sreml_jax.train import train
from sreml_jax.training.checkpoint import newest_config


def test_the_classifiers_make_the_logits_of_them():
    with jax.enable_x64(True):
        case = Case('resnet50', conv='matmul', embedding='pooled')
        features = jax.jit(case.model.apply)(case.variables, case.images)
        fc = case.variables['params']['members']['fc']
        logits = np.einsum('bmc,mck->bmk', features, fc['kernel']) + fc['bias']
        assert_allclose(logits, case.expected['eval_logits'], rtol=1e-6, atol=1e-6)
        assert features[0].size == case.model.dimensions
        # Training is on the logits.
        apply = jax.jit(lambda v, x: case.model.apply(v, x, train=True, mutable=['batch_stats'])[0])
        trained = apply(case.variables, case.images)
        assert_allclose(trained, case.expected['train_logits'], rtol=1e-6, atol=1e-6)
    jax.clear_caches()


def test_members_pool_as_the_config_says():
    average, gem = (
        Ensemble('resnet18', 2, 3, width=4, conv='grouped', pool=pool, embedding='pooled')
        for pool in ('average', 'gem')
    )
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    variables = jax.jit(average.init)(jax.random.key(0), images)
    of_average, of_gem = (jax.jit(model.apply)(variables, images) for model in (average, gem))
    assert of_gem.shape == (2, 2, 32)
    assert (of_gem >= of_average).all() and np.mean(of_gem > of_average + 1e-3) > 0.5
    # One pixel is left of 32: its mean of any power is itself.
    of_average, of_gem = (jax.jit(model.apply)(variables, images[:, :32, :32]) for model in (average, gem))
    assert_allclose(of_gem, of_average, atol=2e-6, rtol=1e-5)


def test_a_mirrored_embedding_is_the_mean_over_an_image_and_its_mirror_image():
    plain = Ensemble('resnet18', 2, 3, width=4, stem='small', conv='grouped', embedding='pooled')
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
    variables = jax.jit(plain.init)(jax.random.key(0), images)
    apply = jax.jit(plain.apply)

    def units(features):
        return features / np.linalg.norm(features, axis=2, keepdims=True)

    both = units(apply(variables, images)) + units(apply(variables, images[:, :, ::-1]))
    expected = units(both).reshape(3, -1) / 2**0.5
    model = plain.clone(mirrored=True)
    found = jax.jit(lambda variables, images: embeddings(model, variables, images))
    assert_allclose(found(variables, images), expected, atol=1e-6)
    assert_allclose(found(variables, images[:, :, ::-1]), expected, atol=1e-6)
    assert np.abs(expected - embeddings(plain, variables, images)).max() > 1e-3
    assert_allclose(np.linalg.norm(expected, axis=1), 1, rtol=1e-6)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory) -> Path:
    """A run of an epoch, whose config is of logits."""
    folder = tmp_path_factory.mktemp('runs') / 'tiny'
    train(tiny_config(num_epochs=1), folder, tiny_dataset(), NoSignals())
    return folder


def test_a_checkpoint_is_evaluated_by_either(workdir):
    dataset, config = tiny_dataset(), newest_config(workdir)
    config.embedding = 'pooled'
    result = evaluate(config, workdir, dataset, thorough=True)
    assert result.embedding == 'resnet18 x 2, pooled'
    embedder = Embedder(workdir, config)
    images = np.concatenate(list(dataset.images('test', np.arange(len(dataset.labels['test'])), 64)))
    embeddings = embedder.images(images)
    assert embeddings.shape == (len(images), 2 * 32) and embedder.dimensions == 64
    assert_allclose(np.linalg.norm(embeddings.reshape(-1, 2, 32), axis=2), 0.5**0.5, rtol=1e-5)
    similarity = embeddings @ embeddings.T - 3 * np.eye(len(images))
    labels = dataset.labels['test']
    assert result.recall[1] == np.mean(labels[similarity.argmax(1)] == labels)
    # Members of another device, and another program, make the same numbers.
    config.gpu_ids = (0, 1)
    assert_allclose(Embedder(workdir, config).images(images[:5]), embeddings[:5], atol=1e-5)
    weights = traverse_util.flatten_dict(embedder.variables, sep='/')
    assert_allclose(jax.jit(function(embedder))(weights, images[:5]), embeddings[:5], atol=1e-5)
