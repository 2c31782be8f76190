"""A list of images in a CSV or Parquet file: its columns, its splits, and what is wrong with it."""

import pandas as pd
import pytest
from support import pictures

from sreml_jax import data
from sreml_jax.configs import default
from sreml_jax.data.sources.table import Table
from sreml_jax.runtime.errors import UserError


def config_of(folder, name, **fields):
    config = default.get_config()
    config.update(
        data_name='folder', data_dir=str(folder / name), prepared_dir=str(folder / 'prepared'), **fields
    )
    return config


def found(path, **fields):
    """Labels and file names that each split has."""
    examples = Table(path, config_of(path.parent, path.name, **fields)).find_examples(path)
    return {split: [(e.label, e.path.name) for e in every] for split, every in examples.items()}


@pytest.fixture
def rows(tmp_path):
    """Four classes of two images under tmp_path/pictures, as (path, label); one path is absolute."""
    pictures.write_classes(tmp_path / 'pictures', 4, 2)
    paths = sorted((tmp_path / 'pictures').rglob('*.png'))
    named = [(str(path.relative_to(tmp_path)), path.parent.name) for path in paths]
    return [(str(paths[0]), 'class00'), *named[1:]]


def test_a_csv_file_of_paths_and_labels(tmp_path, rows):
    frame = pd.DataFrame(rows, columns=['path', 'label'])
    frame['label'] = frame.label.replace('class03', 'A, first')
    frame['price'] = 3
    frame.to_csv(tmp_path / 'list.csv', index=False, encoding='utf-8-sig')
    dataset = data.load(config_of(tmp_path, 'list.csv'))
    assert dataset.name == 'table'
    assert dataset.train_classes == ['class00', 'A, first'] or dataset.train_classes == [
        'A, first',
        'class00',
    ]
    assert sorted(dataset.class_names['test'].values()) == ['class01', 'class02']
    assert data.extent(config_of(tmp_path, 'list.csv')).images == 4
    splits = found(tmp_path / 'list.csv', split_by='images')
    assert [len(splits[name]) for name in ('train', 'query', 'gallery')] == [4, 4, 4]


@pytest.mark.parametrize('test', ['test', 'val', 'validation'])
def test_a_parquet_file_with_a_split(tmp_path, rows, test):
    frame = pd.DataFrame(rows, columns=['path', 'label'])
    frame['split'] = ['train'] * 6 + [test] * 2
    frame.to_parquet(tmp_path / 'list.parquet')
    splits = found(tmp_path / 'list.parquet')
    assert list(splits) == ['train', 'test']
    assert splits['test'] == [('class03', '000.png'), ('class03', '001.png')]
    frame['split'] = ['train'] * 4 + ['query', 'gallery'] * 2
    frame.to_parquet(tmp_path / 'list.parquet')
    assert {name: len(x) for name, x in found(tmp_path / 'list.parquet').items()} == {
        'train': 4,
        'query': 2,
        'gallery': 2,
    }


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'has no column path and label, only none'),
        ('file,label\na,b\n', 'has no column path, only file, label; rename'),
        ('path,label\n', 'has no rows'),
        ('path,label\na.png,\n', 'row 1 of .*list.csv has no label'),
        ('path,label\na.png,one,two\n', 'row 1 of .*list.csv has 3 cells, and its first line 2'),
        ('path,label\na.png,x\na.png,y\n', "lists a.png 2 times|lists 'a.png' 2 times"),
        ('path,label,split\na.png,x,trian\n', "has the split 'trian'; known are train, test"),
        (
            'path,label,split\na.png,x,train\nb.png,y,val\nc.png,z,test\n',
            'has the splits test, train, val; keep',
        ),
        ('path,label\na.png,"x\n', 'cannot be read'),
        ('path,label\na.png,x\nb.png,y\n', '2 of the listed images are missing'),
        (b'path,label\n\xff\xfe,x\n', 'cannot be read'),
    ],
)
def test_mistakes(tmp_path, text, message):
    path = tmp_path / 'list.csv'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message):
        found(path)


def test_a_broken_parquet_file_and_other_files(tmp_path):
    for name in ('list.parquet', 'list.txt'):
        (tmp_path / name).write_text('no table')
    with pytest.raises(UserError, match=r'list\.parquet cannot be read'):
        found(tmp_path / 'list.parquet')
    with pytest.raises(UserError, match=r'list\.txt is a file; --config.data_dir takes a folder'):
        data.prepared(config_of(tmp_path, 'list.txt'))
    with pytest.raises(UserError, match=r'there is no file \S+gone\.csv; give'):
        data.prepared(config_of(tmp_path, 'gone.csv'))
