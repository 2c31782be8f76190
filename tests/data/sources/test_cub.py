"""CUB-200-2011: the protocol's counts on the official lists, the layouts, the boxes, the messages."""

import shutil
import tarfile

import numpy as np
import pytest
from support import annotations

from sreml_jax import data
from sreml_jax.configs import default
from sreml_jax.data.sources import cub
from sreml_jax.runtime.errors import UserError


@pytest.mark.skipif(not annotations.OFFICIAL.is_dir(), reason=f'no {annotations.OFFICIAL}')
def test_official_lists_prepared_give_the_protocols_counts(tmp_path):
    annotations.make_cub(tmp_path / 'data', annotations.OFFICIAL)
    config = default.get_config()
    config.prepared_dir = str(tmp_path / 'prepared')
    builder = cub.Cub(tmp_path / 'data', config)
    builder.prepare()
    labels = builder.info.metadata['labels']
    assert {split: len(x) for split, x in labels.items()} == {'train': 5864, 'test': 5924}
    assert {split: builder.info.splits[split].num_examples for split in labels} == {
        'train': 5864,
        'test': 5924,
    }
    names = {split: {builder.info.metadata['classes'][i] for i in x} for split, x in labels.items()}
    assert {name[:3] for name in names['train']} == {f'{i:03}' for i in range(1, 101)}
    assert {name[:3] for name in names['test']} == {f'{i:03}' for i in range(101, 201)}


@pytest.mark.skipif(not annotations.OFFICIAL.is_dir(), reason=f'no {annotations.OFFICIAL}')
def test_first_official_line():
    first = cub.find_examples(annotations.OFFICIAL)['train'][0]
    assert first.path.parts[-3:-1] == ('images', '001.Black_footed_Albatross')
    assert first.path.name == 'Black_Footed_Albatross_0046_18.jpg'
    assert first.label == '001.Black_footed_Albatross'
    assert first.box == (60, 27, 60 + 325, 27 + 304)


def as_folder(folder):
    pass


def as_contents(folder):
    (folder / 'CUB_200_2011').rename(folder.with_name('contents'))
    folder.rmdir()
    folder.with_name('contents').rename(folder)


def nested(folder):
    (folder / 'CUB_200_2011').rename(folder / 'inner')
    (folder / 'CUB_200_2011').mkdir()
    (folder / 'inner').rename(folder / 'CUB_200_2011' / 'CUB_200_2011')


def packed(folder):
    with tarfile.open(folder / 'CUB_200_2011.tgz', 'w:gz') as tar:
        tar.add(folder / 'CUB_200_2011', 'CUB_200_2011')
        tar.add(folder / 'CUB_200_2011' / 'images.txt', 'attributes.txt')  # the official one has such a stray
    shutil.rmtree(folder / 'CUB_200_2011')


@pytest.mark.parametrize('arrange', [as_folder, as_contents, nested, packed])
def test_layouts(tmp_path, arrange):
    data = tmp_path / 'data'
    annotations.make_cub(data, classes=3, per_class=2)
    arrange(data)
    splits = cub.find_examples(data)
    assert [e.label for e in splits['train']] == [f'00{i}.Bird_{i}' for i in (1, 1, 2, 2, 3, 3)]
    assert [e.label for e in splits['test']] == [f'{i}.Bird_{i}' for i in (101, 101, 102, 102, 103, 103)]
    assert all(e.path.is_file() for examples in splits.values() for e in examples)


def test_cropped_picture_is_what_the_box_holds(tmp_path):
    annotations.make_cub(tmp_path / 'data', classes=1, per_class=2)
    color = (200, 30, 90)
    for example in cub.find_examples(tmp_path / 'data')['test']:
        assert example.box == (annotations.LEFT, annotations.TOP, annotations.RIGHT, annotations.BOTTOM)
        annotations.paint_box(example.path, color)
    config = default.get_config()
    config.update(data_name='cub', data_dir=str(tmp_path / 'data'), prepared_dir=str(tmp_path / 'prepared'))
    config.update(crop_type='cropped', image_size=24)
    (images,) = data.load(config).images('test', np.arange(2), 2)
    assert images.shape == (2, 24, 24, 3)
    assert (images == color).all()


@pytest.mark.parametrize('name', ['images.txt', 'image_class_labels.txt', 'bounding_boxes.txt'])
def test_missing_list_is_named_with_what_to_do(tmp_path, name):
    annotations.make_cub(tmp_path)
    (tmp_path / 'CUB_200_2011' / name).unlink()
    with pytest.raises(
        UserError, match=rf'{name}.* in {tmp_path}.*CUB_200_2011\.tgz.*--config\.download=True'
    ):
        cub.find_examples(tmp_path)


def test_lists_of_two_copies_are_refused(tmp_path):
    annotations.make_cub(tmp_path)
    labels = tmp_path / 'CUB_200_2011' / 'image_class_labels.txt'
    labels.write_text(''.join(labels.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match='do not list the same images'):
        cub.find_examples(tmp_path)


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        ('images.txt', lambda lines: [*lines, lines[0]], 'lists image 1 2 times'),
        (
            'images.txt',
            lambda lines: [lines[0], lines[0].replace('1 ', '2 ', 1), *lines[2:]],
            'Bird_1_0001.jpg 2 times',
        ),
        ('images.txt', lambda lines: ['1 /etc/passwd.jpg', *lines[1:]], 'Line 1 of'),
        ('images.txt', lambda lines: ['1 001.Bird_1/a\0.jpg', *lines[1:]], 'Line 1 of'),
        ('bounding_boxes.txt', lambda lines: ['1 nan 1 2 3', *lines[1:]], 'Line 1 of'),
        ('image_class_labels.txt', lambda lines: ['1 one', *lines[1:]], 'Line 1 of'),
    ],
)
def test_damaged_lists_are_named(tmp_path, name, change, message):
    annotations.make_cub(tmp_path)
    file = tmp_path / 'CUB_200_2011' / name
    file.write_text('\n'.join(change(file.read_text().splitlines())))
    with pytest.raises(UserError, match=f'{message}.*: put a good copy'):
        cub.find_examples(tmp_path)


def test_missing_photographs_are_counted_and_named(tmp_path):
    annotations.make_cub(tmp_path / 'data')
    for kind in (1, 102):
        shutil.rmtree(tmp_path / 'data' / 'CUB_200_2011' / 'images' / f'{kind:03}.Bird_{kind}')
    config = default.get_config()
    config.prepared_dir = str(tmp_path / 'prepared')
    with pytest.raises(
        UserError, match=r'8 of the listed images are missing.*Bird_1_0001\.jpg.*allow_missing'
    ):
        cub.Cub(tmp_path / 'data', config)
