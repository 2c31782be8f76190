"""In-shop Clothes: the protocol's counts on the official list, the layouts, the messages."""

import shutil
import zipfile

import pytest
from support import annotations

from sreml_jax.configs import default
from sreml_jax.data.sources import isc
from sreml_jax.runtime.errors import UserError


@pytest.mark.skipif(not annotations.OFFICIAL.is_dir(), reason=f'no {annotations.OFFICIAL}')
def test_official_list_gives_the_protocols_counts(tmp_path):
    annotations.make_isc(tmp_path / 'data', annotations.OFFICIAL)
    config = default.get_config()
    config.prepared_dir = str(tmp_path / 'prepared')
    isc.Isc(tmp_path / 'data', config)  # refuses a copy with missing images
    splits = isc.find_examples(tmp_path / 'data')
    items = {split: {e.label for e in x} for split, x in splits.items()}
    assert {split: len(x) for split, x in splits.items()} == {
        'train': 25882,
        'query': 14218,
        'gallery': 12612,
    }
    assert len(items['train']) == 3997
    assert len(items['query'] & items['gallery']) == len(items['query']) == len(items['gallery']) == 3985
    assert not items['train'] & items['query']


def usual(data):
    pass


def flat(data):
    (data / 'Eval' / 'list_eval_partition.txt').rename(data / 'list_eval_partition.txt')
    (data / 'Img' / 'img').rename(data / 'img')


def pack(data, archive):
    with zipfile.ZipFile(archive, 'w') as file:
        for path in sorted((data / 'Img' / 'img').rglob('*')):
            file.write(path, path.relative_to(data / 'Img'))
    shutil.rmtree(data / 'Img' / 'img')


def packed(data):
    pack(data, data / 'Img' / 'img.zip')


def packed_beside_the_list(data):
    pack(data, data / 'img.zip')
    (data / 'Img').rmdir()
    (data / 'Eval' / 'list_eval_partition.txt').rename(data / 'list_eval_partition.txt')


@pytest.mark.parametrize('arrange', [usual, flat, packed, packed_beside_the_list])
def test_layouts(tmp_path, arrange):
    annotations.make_isc(tmp_path, classes=2, per_class=4)
    arrange(tmp_path)
    splits = isc.find_examples(tmp_path)
    labels = {split: [e.label for e in x] for split, x in splits.items()}
    assert labels['train'] == ['id_00000001'] * 4 + ['id_00000002'] * 4
    assert labels['query'] == labels['gallery'] == ['id_00000003'] * 2 + ['id_00000004'] * 2
    assert all(e.path.is_file() and e.box is None for examples in splits.values() for e in examples)


@pytest.mark.parametrize('missing', ['Eval', 'Img'])
def test_missing_part_is_reported_with_page_files_and_place(tmp_path, missing):
    annotations.make_isc(tmp_path)
    shutil.rmtree(tmp_path / missing)
    page = 'https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html'
    with pytest.raises(
        UserError, match=rf'no {missing}/.* in {tmp_path}: .*list_eval_partition.txt.*img\.zip.*{page}'
    ):
        isc.find_examples(tmp_path)


def test_list_cut_short_is_refused(tmp_path):
    annotations.make_isc(tmp_path)
    file = tmp_path / 'Eval' / 'list_eval_partition.txt'
    file.write_text(''.join(file.read_text().splitlines(keepends=True)[:-3]))
    with pytest.raises(UserError, match=f"{file} has 29 images where its first line says '32'"):
        isc.find_examples(tmp_path)


def test_list_of_another_benchmark_is_refused(tmp_path):
    annotations.make_isc(tmp_path)
    file = tmp_path / 'Eval' / 'list_eval_partition.txt'
    file.write_text(file.read_text().replace(' gallery', ' val'))
    with pytest.raises(UserError, match="split 'val'"):
        isc.find_examples(tmp_path)
