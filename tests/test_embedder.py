"""The embedder: splits, compiled programs, fingerprints, and data that stall."""

import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from support.compiled import programs
from support.looking import begun
from support.tiny import tiny_dataset

from sreml_jax import run
from sreml_jax.embedder import Embedder
from sreml_jax.runtime.errors import RunError
from sreml_jax.training.checkpoint import newest_config

pytestmark = pytest.mark.usefixtures('few_blocks')


@pytest.fixture(scope='module')
def workdir(tmp_path_factory) -> Path:
    """The checkpoint of a run that has only begun."""
    return begun(tmp_path_factory.mktemp('runs') / 'tiny')


def test_a_split_is_embedded_in_its_order(workdir):
    embedder, dataset = Embedder(workdir), tiny_dataset()
    images = next(dataset.images('test', np.arange(42), 42))
    expected = embedder.images(images)
    found = embedder.split(dataset, 'test')
    assert found.dtype == np.float32 and found.shape == (42, 8)
    np.testing.assert_array_equal(found, expected)
    chosen = np.array([40, 3, 3, 17])
    np.testing.assert_array_equal(embedder.split(dataset, 'test', chosen), expected[chosen])


def test_all_splits_share_one_compiled_program(workdir):
    embedder, dataset = Embedder(workdir), tiny_dataset()
    embedder.split(dataset, 'train')
    with programs() as compiled:
        embedder.split(dataset, 'test')
        embedder.split(dataset, 'train', np.arange(5))
        embedder.images(next(dataset.images('test', np.arange(3), 3)))
    assert not compiled


def changed(variables, path):
    """The variables with one bit of one array changed."""
    flat = traverse_util.flatten_dict(jax.device_get(variables), sep='/')
    array = flat[path].copy()
    array.view(np.uint32).reshape(-1)[-1] ^= 1
    return jax.device_put(traverse_util.unflatten_dict(flat | {path: array}, sep='/'))


def test_the_fingerprint_covers_every_array(workdir):
    variables = Embedder(workdir).variables
    same = run.fingerprint(jax.device_put(jax.device_get(variables)))
    assert same == run.fingerprint(variables) and same.startswith('v2:')
    paths = list(traverse_util.flatten_dict(variables, sep='/'))
    prints = {run.fingerprint(changed(variables, path)) for path in paths}
    assert len(prints | {same}) == len(paths) + 1
    weights = next(p for p in paths if p.startswith('params/members') and p.endswith('kernel'))
    assert run.old_fingerprint(changed(variables, weights)) == run.old_fingerprint(variables)


def test_the_fingerprint_does_not_depend_on_the_mesh(workdir):
    config = newest_config(workdir)
    config.gpu_ids = (0, 1, 2, 3)
    config.mesh = (2, 2)
    spread, single = Embedder(workdir, config), Embedder(workdir)
    assert (spread.fingerprint, spread.old_fingerprint) == (single.fingerprint, single.old_fingerprint)


def test_a_split_whose_data_stall_ends_in_an_error(workdir):
    released, dataset, config = threading.Event(), tiny_dataset(), newest_config(workdir)
    dataset.images = lambda *_: iter(lambda: released.wait(30), True)
    config.stall_minutes = 0.2 / 60
    try:
        with pytest.raises(RunError, match='no batch arrived for 0'):
            Embedder(workdir, config).split(dataset, 'test')
    finally:
        released.set()
