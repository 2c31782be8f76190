"""A user's own folders: which class goes where, which files count, what is refused."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from support import pictures
from support.paths import SHARED

from sreml_jax import data
from sreml_jax.configs import default
from sreml_jax.data.sources.folder import Folder
from sreml_jax.runtime.errors import UserError

OMNIGLOT = SHARED / 'data' / 'omniglot.tar'


def found(folder, **fields):
    """Labels and file names that each split has."""
    config = default.get_config()
    config.update(prepared_dir=str(folder.parent / 'prepared'), **fields)
    examples = Folder(folder, config).find_examples(folder)
    return {split: [(e.label, e.path.name) for e in every] for split, every in examples.items()}


def labels(splits):
    return {split: sorted({label for label, _ in every}) for split, every in splits.items()}


def test_train_and_test_folders(tmp_path):
    pictures.write_classes(tmp_path / 'data' / 'train', 3, 2)
    pictures.write_classes(tmp_path / 'data' / 'test', 2, 1)
    assert found(tmp_path / 'data') == {
        'train': [(f'class0{i}', f'00{j}.png') for i in range(3) for j in range(2)],
        'test': [('class00', '000.png'), ('class01', '000.png')],
    }


@pytest.mark.parametrize('name', ['val', 'valid'])
def test_validation_folders_stand_for_test(tmp_path, name):
    pictures.write_classes(tmp_path / 'data' / 'train', 3, 1)
    pictures.write_classes(tmp_path / 'data' / name, 2, 1)
    expected = {'train': ['class00', 'class01', 'class02'], 'test': ['class00', 'class01']}
    assert labels(found(tmp_path / 'data')) == expected
    pictures.write_classes(tmp_path / 'data' / 'test', 2, 1)
    with pytest.raises(UserError, match=f'has test/ and {name}/ beside train/; keep the one'):
        found(tmp_path / 'data')


@pytest.mark.parametrize(('fraction', 'training'), [(0.5, 2), (0.8, 4), (0.2, 1), (0.75, 4)])
def test_the_first_of_the_sorted_classes_train(tmp_path, fraction, training):
    pictures.write_classes(tmp_path / 'data', 5, 1)
    names = [f'class0{i}' for i in range(5)]
    assert labels(found(tmp_path / 'data', train_fraction=fraction)) == {
        'train': names[:training],
        'test': names[training:],
    }


def test_a_class_may_have_any_name(tmp_path):
    pictures.write_classes(tmp_path / 'data', 3, 2)
    (tmp_path / 'data' / 'class00').rename(tmp_path / 'data' / 'folder')
    config = default.get_config()
    config.update(
        data_name='folder', data_dir=str(tmp_path / 'data'), prepared_dir=str(tmp_path / 'prepared')
    )
    assert data.prepared(config).info.metadata['classes'] == ['class01', 'class02', 'folder']


def test_hidden_and_foreign_files_are_left_out(tmp_path, caplog):
    folder = tmp_path / 'data'
    pictures.write_classes(folder, 2, 1)
    (folder / '.git').mkdir()
    (folder / 'README.md').write_text('mine')
    for name in ('.DS_Store', '._000.png', 'notes.txt', 'Thumbs.db'):
        (folder / 'class00' / name).write_text('?')
    assert found(folder) == {'train': [('class00', '000.png')], 'test': [('class01', '000.png')]}
    assert '2 files in' in caplog.text and 'class00/Thumbs.db, class00/notes.txt' in caplog.text


def test_suffixes_in_capitals_count(tmp_path):
    pictures.write_classes(tmp_path / 'data', 2, 1, 'JPG')
    assert found(tmp_path / 'data')['train'] == [('class00', '000.JPG')]


def test_names_that_are_not_utf8(tmp_path):
    pictures.write_classes(tmp_path / 'data', 2, 2)
    path = tmp_path / 'data' / 'class00' / '000.png'
    path.rename(path.with_name(os.fsdecode(b'caf\xe9.png')))
    config = default.get_config()
    config.update(
        data_name='folder', data_dir=str(tmp_path / 'data'), prepared_dir=str(tmp_path / 'prepared')
    )
    assert len(data.load(config).labels['train']) == 2


def test_classes_on_both_sides_are_noted(tmp_path):
    pictures.write_classes(tmp_path / 'data' / 'train', 3, 2)
    pictures.write_classes(tmp_path / 'data' / 'test', 2, 1)
    config = default.get_config()
    config.update(
        data_name='folder', data_dir=str(tmp_path / 'data'), prepared_dir=str(tmp_path / 'prepared')
    )
    assert data.load(config).notes == ('2 test classes are training classes too',)


@pytest.mark.parametrize(
    ('make', 'fields', 'message'),
    [
        (lambda f: f.mkdir(), {}, 'data has no class folders'),
        (lambda f: pictures.write_classes(f, 1, 2), {}, 'train_fraction=0.5 of the 1 classes'),
        (lambda f: [(f / x).mkdir(parents=True) for x in 'abc'], {}, 'class folder .*data/a has no images'),
        (lambda f: pictures.write_classes(f, 4, 1), {'train_fraction': 1.0}, 'leaves 4 to train on and 0'),
        (lambda f: pictures.write_classes(f, 4, 1), {'train_fraction': 0.0}, 'leaves 0 to train on and 4'),
        (lambda f: pictures.write_classes(f / 'train', 4, 1), {}, 'has train/ but no test/'),
        (lambda f: pictures.write_classes(f / 'test', 4, 1), {}, 'has test/ but no train/'),
    ],
)
def test_mistakes(tmp_path, make, fields, message):
    make(tmp_path / 'data')
    with pytest.raises(UserError, match=message):
        found(tmp_path / 'data', **fields)


def test_a_folder_that_may_not_be_read_is_one_sentence(tmp_path, monkeypatch):
    pictures.write_classes(tmp_path / 'data', 3, 2)
    listed = Path.iterdir

    def iterdir(path):
        if path.name == 'class01':
            raise PermissionError(13, 'Permission denied', str(path))
        return listed(path)

    monkeypatch.setattr(Path, 'iterdir', iterdir)
    config = default.get_config()
    config.update(
        data_name='folder', data_dir=str(tmp_path / 'data'), prepared_dir=str(tmp_path / 'prepared')
    )
    with pytest.raises(UserError, match=r'folder: .*class01 cannot be read \(Permission denied\)'):
        data.load(config)


def test_a_split_by_images_is_named_in_every_table(tmp_path):
    pictures.write_classes(tmp_path / 'data', 3, 4)
    (tmp_path / 'data' / 'class02' / '003.png').unlink()
    for name in ('001.png', '002.png', '003.png'):
        (tmp_path / 'data' / 'class00' / name).unlink()
    splits = found(tmp_path / 'data', split_by='images', train_fraction=0.75)
    assert splits['gallery'] == splits['train']
    assert not set(splits['query']) & set(splits['train'])
    assert [sum(label == f'class0{i}' for label, _ in splits['train']) for i in range(3)] == [1, 3, 2]
    assert [label for label, _ in splits['query']] == ['class01', 'class02']
    config = default.get_config()
    config.update(data_name='folder', data_dir=str(tmp_path / 'data'), prepared_dir=str(tmp_path / 'p'))
    config.split_by = 'images'
    dataset = data.load(config)
    assert dataset.evaluation_splits == ('query', 'gallery')
    assert [note for note in dataset.notes if "not the benchmark's protocol" in note]
    (tmp_path / 'data' / 'class00').rename(tmp_path / 'data' / 'train')
    (tmp_path / 'data' / 'class01').rename(tmp_path / 'data' / 'val')
    with pytest.raises(UserError, match='has train/ and val/; split_by=images is for'):
        found(tmp_path / 'data', split_by='images')


@pytest.mark.skipif(not OMNIGLOT.exists(), reason=f'no {OMNIGLOT}')
def test_omniglot(tmp_path):
    with tarfile.open(OMNIGLOT) as tar:
        tar.extractall(tmp_path, filter='data')
    config = default.get_config()
    config.update(data_name='folder', data_dir=str(tmp_path / 'omniglot'), prepared_dir=str(tmp_path / 'p'))
    config.image_size = 48
    dataset = data.load(config)
    assert dataset.num_classes == 136 and len(dataset.class_names['test']) == 106
    assert {split: len(x) for split, x in dataset.labels.items()} == {'train': 2720, 'test': 2120}
    images = next(dataset.images('test', np.arange(0, 2120, 100), 64))
    assert images.shape == (22, 48, 48, 3) and images.mean() > 200  # black on white
