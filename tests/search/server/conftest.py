"""A run that has only begun, and the search page over its test images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.asking import TOP
from support.looking import begun, files, served

from sreml_jax.embedder import Embedder
from sreml_jax.search.batched import Finder
from sreml_jax.search.embed import embed
from sreml_jax.search.index import Index


@pytest.fixture(scope='session')
def folder(tmp_path_factory) -> Path:
    """A run that has only begun, its test images as files, and their index."""
    folder = tmp_path_factory.mktemp('look')
    files(folder / 'photos')
    embed(Embedder(begun(folder / 'run')), str(folder / 'photos'), folder / 'index')
    return folder


@pytest.fixture(scope='session')
def embedder(folder) -> Embedder:
    """Of that run."""
    return Embedder(folder / 'run')


@pytest.fixture(scope='session')
def paths(folder) -> list[Path]:
    """The images, in the order of the index."""
    return sorted((folder / 'photos').rglob('*.png'))


@pytest.fixture(scope='session')
def similarity(embedder, paths) -> np.ndarray:
    """Of each image to each, float32 [42, 42]."""
    embeddings = embedder.images(np.stack([np.asarray(Image.open(path)) for path in paths]))
    return embeddings @ embeddings.T


@pytest.fixture(scope='module')
def address(folder, embedder) -> str:
    """Where the page is served."""
    with served(Finder(embedder, Index(folder / 'index'), TOP)) as address:
        yield address
