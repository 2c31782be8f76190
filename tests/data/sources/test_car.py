"""CARS196: the protocol's counts, both layouts and their nestings, the boxes, the messages."""

import contextlib
import random
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import scipy.io
from support import annotations

from sreml_jax import data
from sreml_jax.configs import default
from sreml_jax.data.sources import car
from sreml_jax.runtime.errors import UserError


def counts(splits):
    return {split: (len(x), len({e.label for e in x})) for split, x in splits.items()}


@pytest.mark.skipif(not annotations.OFFICIAL.is_dir(), reason=f'no {annotations.OFFICIAL}')
def test_official_devkit_gives_the_protocols_counts(tmp_path):
    annotations.make_car(tmp_path / 'data', annotations.OFFICIAL)
    config = default.get_config()
    config.prepared_dir = str(tmp_path / 'prepared')
    car.Car(tmp_path / 'data', config)  # refuses a copy with missing images
    splits = car.find_examples(tmp_path / 'data')
    assert counts(splits) == {'train': (8054, 98), 'test': (8131, 98)}
    assert splits['train'][0] == (
        tmp_path / 'data' / 'cars_train' / '00001.jpg',
        '014.Audi TTS Coupe 2012',
        (38, 115, 569, 375),  # the devkit says 39, 116, 569, 375, counted from 1
    )
    # Classes that end in one half of the published split are in both: each split draws on both folders.
    assert {e.path.parent.name for e in splits['test']} == {'cars_train', 'cars_test'}


def test_whole_layout_of_full_size(tmp_path):
    models = np.concatenate([np.arange(8054) % 98 + 1, np.arange(8131) % 98 + 99])
    annotations.write_car_annos(tmp_path, models)
    (tmp_path / 'car_ims').mkdir()
    splits = car.find_examples(tmp_path)
    assert counts(splits) == {'train': (8054, 98), 'test': (8131, 98)}
    assert splits['test'][-1].path == tmp_path / 'car_ims' / '016185.jpg'


def plain(folder):
    pass


def nested(folder):
    for half in ('cars_train', 'cars_test'):
        (folder / half).rename(folder / 'inner')
        (folder / half).mkdir()
        (folder / 'inner').rename(folder / half / half)
    (folder / 'car_devkit').mkdir()
    (folder / 'devkit').rename(folder / 'car_devkit' / 'devkit')


def labels_beside_images(folder):
    name = 'cars_test_annos_withlabels.mat'
    (folder / 'devkit' / name).rename(folder / name)


def flat(folder):
    for file in (folder / 'devkit').iterdir():
        file.rename(folder / file.name)


def packed(folder):
    labels_beside_images(folder)
    for name, stem in (('cars_train', 'cars_train'), ('devkit', 'car_devkit')):
        with tarfile.open(folder / f'{stem}.tgz', 'w:gz') as tar:
            tar.add(folder / name, name)
        shutil.rmtree(folder / name)
    with zipfile.ZipFile(folder / 'cars_test.zip', 'w') as archive:
        for file in (folder / 'cars_test').iterdir():
            archive.write(file, f'cars_test/cars_test/{file.name}')
    shutil.rmtree(folder / 'cars_test')


@pytest.mark.parametrize('arrange', [plain, nested, labels_beside_images, flat, packed])
def test_layouts_in_halves(tmp_path, arrange):
    annotations.make_car(tmp_path, classes=3, per_class=4)
    arrange(tmp_path)
    splits = car.find_examples(tmp_path)
    assert {s: sorted({e.label for e in x}) for s, x in splits.items()} == {
        'train': ['001.Model 1', '002.Model 2', '003.Model 3'],
        'test': ['099.Model 99', '100.Model 100', '101.Model 101'],
    }
    assert counts(splits) == {'train': (12, 3), 'test': (12, 3)}
    assert all(e.path.is_file() for examples in splits.values() for e in examples)


@pytest.mark.parametrize('pack', [False, True])
def test_whole_layout(tmp_path, pack):
    annotations.make_car_whole(tmp_path, classes=3, per_class=4)
    if pack:
        with tarfile.open(tmp_path / 'car_ims.tgz', 'w:gz') as tar:
            tar.add(tmp_path / 'car_ims', 'car_ims')
        shutil.rmtree(tmp_path / 'car_ims')
    splits = car.find_examples(tmp_path)
    assert counts(splits) == {'train': (12, 3), 'test': (12, 3)}
    assert all(e.path.is_file() for examples in splits.values() for e in examples)


@pytest.mark.parametrize('make', [annotations.make_car, annotations.make_car_whole])
def test_cropped_picture_is_what_the_box_holds(tmp_path, make):
    make(tmp_path / 'data', classes=1, per_class=2)
    color = (200, 30, 90)
    for example in car.find_examples(tmp_path / 'data')['test']:
        assert example.box == (annotations.LEFT, annotations.TOP, annotations.RIGHT, annotations.BOTTOM)
        annotations.paint_box(example.path, color)
    config = default.get_config()
    config.update(data_name='car', data_dir=str(tmp_path / 'data'), prepared_dir=str(tmp_path / 'prepared'))
    config.update(crop_type='cropped', image_size=24)
    (images,) = data.load(config).images('test', np.arange(2), 2)
    assert images.shape == (2, 24, 24, 3)
    assert (images == color).all()


def test_two_models_of_one_name_stay_apart(tmp_path):
    annotations.make_car(tmp_path, classes=3)
    names = np.empty((1, 196), object)
    names[0] = ['Coupe'] * 196
    scipy.io.savemat(tmp_path / 'devkit' / 'cars_meta.mat', {'class_names': names})
    assert {e.label for e in car.find_examples(tmp_path)['train']} == {'001.Coupe', '002.Coupe', '003.Coupe'}


def test_names_of_models_are_not_needed(tmp_path):
    annotations.make_car(tmp_path, classes=2)
    (tmp_path / 'devkit' / 'cars_meta.mat').unlink()
    assert {e.label for e in car.find_examples(tmp_path)['train']} == {'001', '002'}


def test_incomplete_copy_is_reported_what_it_lacks_and_where_to_get_it(tmp_path):
    annotations.make_car(tmp_path)
    (tmp_path / 'devkit' / 'cars_test_annos_withlabels.mat').unlink()
    shutil.rmtree(tmp_path / 'cars_test')
    with pytest.raises(UserError) as error:
        car.find_examples(tmp_path)
    message = str(error.value)
    assert str(tmp_path) in message
    assert 'lacks cars_annos.mat, car_ims; or else cars_test_annos_withlabels.mat, cars_test)' in message
    assert 'https://ai.stanford.edu/~jkrause/cars/car_dataset.html' in message


def test_damaged_annotations_are_named(tmp_path):
    annotations.make_car(tmp_path)
    file = tmp_path / 'devkit' / 'cars_train_annos.mat'
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(UserError, match=f'Cannot read {file}'):
        car.find_examples(tmp_path)


def test_a_file_that_crashes_scipy_is_named(tmp_path):
    """The seeds of which scipy 1.17 ends in a segmentation fault; other versions may raise or read them."""
    annotations.make_car(tmp_path)
    file = tmp_path / 'devkit' / 'cars_train_annos.mat'
    whole, crashed = file.read_bytes(), 0
    for seed in (8, 21, 50):
        random_ = random.Random(seed)
        content = bytearray(whole)
        for _ in range(random_.randint(1, 8)):
            content[random_.randrange(len(content))] = random_.randrange(256)
        file.write_bytes(content)
        with contextlib.suppress(UserError):
            car.find_examples(tmp_path)
            continue
        crashed += 1
    assert crashed or not scipy.__version__.startswith('1.17')


def test_a_reader_that_dies_is_one_sentence(tmp_path, monkeypatch):
    annotations.make_car(tmp_path)
    killer = tmp_path / 'killer.py'
    killer.write_text('import os, signal; os.kill(os.getpid(), signal.SIGSEGV)')
    monkeypatch.setattr(car.mat_reader, '__file__', str(killer))
    with pytest.raises(UserError, match=r'cars_train_annos.mat \(its reader crashed\): put a good copy'):
        car.find_examples(tmp_path)


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('bbox_x1', np.nan),
        ('bbox_x1', 'left'),
        ('class', 197),
        ('class', np.inf),
        ('fname', '/etc/passwd.jpg'),
        ('fname', '../1.jpg'),
        ('fname', 'x' * 300),
        ('fname', 7),
        ('fname', '00002.jpg'),  # listed twice
    ],
)
def test_a_damaged_row_is_named(tmp_path, field, value):
    annotations.make_car(tmp_path)
    file = tmp_path / 'devkit' / 'cars_train_annos.mat'
    rows = scipy.io.loadmat(file)['annotations']
    rows[field][0, 0] = value
    scipy.io.savemat(file, {'annotations': rows})
    with pytest.raises(UserError, match=f'{file}.*: put a good copy'):
        car.find_examples(tmp_path)


def test_a_halved_list_is_noted(tmp_path):
    annotations.make_car(tmp_path / 'data', classes=3, per_class=4)
    config = default.get_config()
    config.update(data_name='car', data_dir=str(tmp_path / 'data'), prepared_dir=str(tmp_path / 'prepared'))
    assert data.load(config).notes == (
        'train lists 12 images of 3 classes instead of 8,054 images of 98 classes',
        'test lists 12 images of 3 classes instead of 8,131 images of 98 classes',
    )


def test_test_annotations_without_labels_are_refused(tmp_path):
    annotations.make_car(tmp_path)
    rows = np.empty(
        (1, 2), [(field, object) for field in ('bbox_x1', 'bbox_y1', 'bbox_x2', 'bbox_y2', 'fname')]
    )
    rows[:] = (1, 1, 2, 2, '00001.jpg')
    file = tmp_path / 'devkit' / 'cars_test_annos_withlabels.mat'
    scipy.io.savemat(file, {'annotations': rows})
    with pytest.raises(UserError, match=f'{file} has no class'):
        car.find_examples(tmp_path)
