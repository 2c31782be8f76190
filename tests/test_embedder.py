"""The embedder: splits, and data that stall."""

import threading
from pathlib import Path

import numpy as np
import pytest
from support.looking import begun
from support.tiny import tiny_dataset

from sreml_jax.embedder import Embedder
from sreml_jax.runtime.errors import RunError
from sreml_jax.training.checkpoint import newest_config


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


def test_a_split_whose_data_stall_ends_in_an_error(workdir):
    released, dataset, config = threading.Event(), tiny_dataset(), newest_config(workdir)
    dataset.images = lambda *_: iter(lambda: released.wait(30), True)
    config.stall_minutes = 0.2 / 60
    try:
        with pytest.raises(RunError, match='no batch for 0'):
            Embedder(workdir, config).split(dataset, 'test')
    finally:
        released.set()
