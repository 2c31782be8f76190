"""The drawn characters: enough of them, all different, the same every time, neither trivial nor hopeless."""

import io

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image

from sreml_jax import data
from sreml_jax.configs import default
from sreml_jax.data.sources import glyphs


@pytest.fixture(scope='module')
def prepared_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp('prepared'))


@pytest.fixture(scope='module')
def builder(prepared_dir):
    return data.prepared(make_config(prepared_dir))


def make_config(prepared_dir):
    config = default.get_config()
    config.update(data_name='glyphs', prepared_dir=str(prepared_dir), image_size=32, cache='on')
    return config


def test_enough_classes_and_images_on_either_side(builder):
    labels = builder.info.metadata['labels']
    assert len(np.unique(np.concatenate(list(labels.values())))) >= 300
    for numbers in labels.values():
        counts = np.unique(numbers, return_counts=True)[1]
        assert len(counts) >= 150 and counts.min() >= 10
    assert not set(labels['train']) & set(labels['test'])


def test_every_face_has_its_character(builder):
    known = {}
    for example in builder.find_examples(builder.source)['train']:
        if example.path not in known:
            with TTFont(example.path, lazy=True) as font:
                known[example.path] = set(font.getBestCmap())
        assert ord(example.label) in known[example.path]
    assert len(known) == 12 + 4 + 6  # DejaVu's, STIX's and TeX's


def test_pictures_are_small_grey_and_whole(builder):
    pictures = np.stack([record['image'] for record in builder.as_data_source('test')])
    assert pictures.shape[1:] == (32, 32, 3) and (pictures == pictures[..., :1]).all()
    border = np.concatenate([pictures[:, [0, -1]].reshape(-1), pictures[:, :, [0, -1]].reshape(-1)])
    assert (border < 128).mean() < 0.001  # nothing is cut off
    assert ((255 - pictures[..., 0]).sum((1, 2), dtype=int) > 10 * 255).all()  # nothing is blank
    assert len(np.unique(pictures.reshape(len(pictures), -1), axis=0)) > 0.99 * len(pictures)


def test_no_character_passes_for_another(builder):
    classes = set(builder.info.metadata['classes'])
    # Latin, Greek and Cyrillic A; o; Latin and Cyrillic c; the three of O, of H; i; I.
    for same in (
        'A\u0391\u0410',
        'o\u03bf\u043e',
        'c\u0441',
        'O\u039f\u041e',
        'H\u0397\u041d',
        'i\u0456',
        'I\u0406',
    ):
        assert len(classes & set(same)) == 1, same
    # A and G and a and g, a Greek, a Cyrillic, an Armenian and a Georgian letter.
    assert set('AGag\u03a9\u0416\u0533\u10d0') <= classes


def test_drawn_the_same_every_time(builder):
    examples = builder.find_examples(builder.source)['test'][::200]
    glyphs._font.cache_clear()
    records = list(builder.as_data_source('test'))[::200]
    for example, record in zip(examples, records, strict=True):
        drawn = Image.open(io.BytesIO(builder.encoded(example))).convert('RGB')
        assert (np.asarray(drawn) == record['image']).all()


def test_raw_pixels_leave_room_to_learn(builder, prepared_dir):
    dataset = data.load(make_config(prepared_dir))
    number = len(dataset.labels['test'])
    pixels = next(dataset.images('test', np.arange(number), number))[..., 0].reshape(number, -1) / 255
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    similarity = pixels @ pixels.T
    np.fill_diagonal(similarity, -1)
    labels = dataset.labels['test']
    assert 0.3 < (labels[similarity.argmax(1)] == labels).mean() < 0.7
