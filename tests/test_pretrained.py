"""Photographs are searched without training: by the pooled features of a pretrained backbone."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from support import forked
from support.weights import save_resnet18

from sreml_jax.configs import pretrained
from sreml_jax.embedder import Embedder
from sreml_jax.model.ensemble import Trunk
from sreml_jax.model.resnet import BACKBONES, Layers, Stage
from sreml_jax.runtime.errors import UserError
from sreml_jax.search.exact import search
from sreml_jax.search.index import Index

SMALL = ['--config.image_size=32', '--config.compilation_cache=']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Five photographs, and a file of weights with torchvision's names."""
    folder = tmp_path_factory.mktemp('pretrained')
    (folder / 'PHOTOS').mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / 'PHOTOS' / f'{i}.png')
    save_resnet18(folder / 'weights.npz')
    return folder


@pytest.fixture(scope='module')
def index(folder):
    """What the command line makes of the photographs, and finds by one of them."""
    weights = f'--config.weights={folder / "weights.npz"}'
    jobs = [
        ['--mode=embed', '--images=PHOTOS', '--out=INDEX', weights, *SMALL],
        ['--mode=search', '--index=INDEX', '--query=PHOTOS/3.png', '--top=2'],
        ['--mode=embed', '--images=PHOTOS', '--out=OTHER', '--config.weights=none', *SMALL],
        ['--mode=embed', '--images=PHOTOS', '--out=OTHER', '--config.ensemble_size=2', weights, *SMALL],
    ]
    return forked.run(folder, [{'argv': argv} for argv in jobs])


def test_photographs_are_embedded_and_found_without_a_run(folder, index):
    assert [code for code, *_ in index[:2]] == [0, 0], index
    assert 'INDEX: 5 images, 5 of them new' in index[0][1]
    # The photograph itself is in the index, and is no answer.
    embeddings = np.asarray(Index(folder / 'INDEX').embeddings)
    similarity = embeddings @ embeddings[3]
    similarity[3] = -1
    first = index[1][1].splitlines()[1].split()
    assert first[0] == '1' and float(first[1]) == pytest.approx(similarity.max(), abs=1e-4)
    assert first[-1].endswith(f'{similarity.argmax()}.png')
    assert (folder / 'INDEX' / 'search.png').exists()
    about = json.loads((folder / 'INDEX' / 'index.json').read_text())
    assert about['checkpoint']['workdir'] == '' and about['dimensions'] == 512
    assert about['preprocessing']['mean'] == pytest.approx([0.485, 0.456, 0.406])


def test_without_a_run_only_pooled_features_of_one_network_can_be_asked_for(index):
    assert [code for code, *_ in index[2:]] == [2, 2]
    assert 'config.weights=none names none' in index[2][2]
    assert 'config.ensemble_size' in index[3][2]


def test_the_python_interface_finds_the_same(folder, index):
    config = pretrained.get_config()
    config.update(weights=str(folder / 'weights.npz'), image_size=32)
    embedder = Embedder.pretrained(config)
    assert not embedder.trained and embedder.dimensions == 512
    (matches,) = search(embedder.photographs([folder / 'PHOTOS' / '1.png']), Index(folder / 'INDEX'), top=1)
    assert matches[0].item.path.endswith('1.png') and matches[0].similarity == pytest.approx(1, abs=1e-4)


def test_the_features_are_the_generalized_mean_of_the_backbone(folder):
    """The stages are applied one by one, and pooled by the definition: the cube root of the mean cube."""
    config = pretrained.get_config()
    config.update(weights=str(folder / 'weights.npz'), image_size=32)
    embedder = Embedder.pretrained(config)
    image = np.random.default_rng(9).integers(0, 256, (1, 32, 32, 3), np.uint8)
    params, stats = (embedder.variables[kind] for kind in ('params', 'batch_stats'))
    parts = BACKBONES['resnet18'], Layers(train=False)
    x = (image / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    trunk = {'params': params['trunk'], 'batch_stats': stats['trunk']}
    x = Trunk(*parts, 64, 'imagenet').apply(trunk, x.astype(np.float32))
    for stage in (2, 3, 4):
        own = {kind: of['members'][f'layer{stage}'] for kind, of in embedder.variables.items()}
        x = Stage(stage, *parts).apply(jax.tree.map(lambda leaf: leaf[0], own), x)
    pooled = np.cbrt((np.asarray(x, np.float64) ** 3).mean((1, 2)))[0]
    np.testing.assert_allclose(embedder.images(image)[0], pooled / np.linalg.norm(pooled), atol=2e-4)


def test_a_missing_file_of_weights_is_named(tmp_path):
    config = pretrained.get_config()
    config.weights = str(tmp_path / 'gone.npz')
    with pytest.raises(UserError, match=r'there is no file .*gone\.npz'):
        Embedder.pretrained(config)
