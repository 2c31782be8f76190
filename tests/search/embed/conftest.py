"""A run of two steps."""

from pathlib import Path

import pytest
from support.runs import NoSignals
from support.tiny import tiny_config, tiny_dataset

from sreml_jax.embedder import Embedder
from sreml_jax.train import train


@pytest.fixture(scope='session')
def workdir(tmp_path_factory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp('runs') / 'tiny'
    train(tiny_config(num_epochs=1, batch_size=16), folder, tiny_dataset(), NoSignals())
    return folder


@pytest.fixture(scope='session')
def embedder(workdir) -> Embedder:
    """Of that run."""
    return Embedder(workdir)
