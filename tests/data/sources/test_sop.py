"""Stanford Online Products: lists of the full size, the layouts, the messages."""

import shutil
import zipfile

import numpy as np
import pytest
from support import annotations

from sreml_jax.data.sources import sop
from sreml_jax.runtime.errors import UserError


def test_lists_of_full_size(tmp_path):
    products = {'train': np.arange(59551) % 11318 + 1, 'test': np.arange(60502) % 11316 + 11319}
    annotations.write_sop_lists(tmp_path, products)
    splits = sop.find_examples(tmp_path)
    assert {split: (len(x), len({e.label for e in x})) for split, x in splits.items()} == {
        'train': (59551, 11318),
        'test': (60502, 11316),
    }
    assert not {e.label for e in splits['train']} & {e.label for e in splits['test']}


def as_folder(data):
    pass


def as_contents(data):
    for file in list((data / 'Stanford_Online_Products').iterdir()):
        file.rename(data / file.name)


def packed(data):
    root = data / 'Stanford_Online_Products'
    with zipfile.ZipFile(data / 'Stanford_Online_Products.zip', 'w') as archive:
        for file in sorted(root.rglob('*')):
            archive.write(file, file.relative_to(data))
        archive.writestr('__MACOSX/._Stanford_Online_Products', b'')  # as in the official one
    shutil.rmtree(root)


@pytest.mark.parametrize('arrange', [as_folder, as_contents, packed])
def test_layouts(tmp_path, arrange):
    annotations.make_sop(tmp_path, classes=3, per_class=2)
    arrange(tmp_path)
    splits = sop.find_examples(tmp_path)
    assert [e.label for e in splits['train']] == ['mug 1', 'mug 1', 'mug 2', 'mug 2', 'mug 3', 'mug 3']
    assert [e.label for e in splits['test']] == ['mug 4', 'mug 4', 'mug 5', 'mug 5', 'mug 6', 'mug 6']
    assert all(e.path.is_file() and e.box is None for examples in splits.values() for e in examples)


@pytest.mark.parametrize('name', ['Ebay_train.txt', 'Ebay_test.txt'])
def test_missing_list_is_named_with_what_to_do(tmp_path, name):
    annotations.make_sop(tmp_path)
    (tmp_path / 'Stanford_Online_Products' / name).unlink()
    with pytest.raises(UserError, match=rf'{name} .*in {tmp_path}.*--config\.download=True'):
        sop.find_examples(tmp_path)
