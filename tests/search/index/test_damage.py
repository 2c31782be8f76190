"""Damaged index folders: one sentence that names the file, and nothing is changed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from support.indexes import ABOUT, add, embeddings_of, items_of, names

from sreml_jax.runtime.errors import UserError
from sreml_jax.search.exact import search
from sreml_jax.search.index import Index, compatibility
from sreml_jax.search.index.writer import IndexWriter

ROW = 12 * 4  # bytes


def read(folder: Path) -> None:
    """Uses all of an index."""
    index = Index(folder)
    index.items(range(len(index)))
    search(embeddings_of(names(0, 1)), index)


def change(folder: Path) -> None:
    """Adds an image to an index, and removes another."""
    with IndexWriter(folder, ABOUT) as index:
        index.remove(lambda path: path == '/photos/0003.jpg')
        index.add(items_of(names(90, 91)), embeddings_of(names(90, 91)))
        index.finish({})


def refused(folder: Path, sentence: str, *works) -> None:
    """Asserts that all of this is refused by the same sentence, and that the index stays as it is."""
    before = finished(folder)
    for work in works or (read, change):
        with pytest.raises(UserError, match=sentence) as raised:
            work(folder)
        assert len(str(raised.value).splitlines()) == 1
    after = finished(folder)
    # A file that is empty may get a header.
    assert {name: content for name, content in after.items() if before.get(name)} == {
        name: content for name, content in before.items() if content
    }


def finished(folder: Path) -> dict[str, bytes]:
    """The files of an index, without unfinished rows, of which a reader knows nothing."""
    files = [path for path in folder.iterdir() if path.name != 'unfinished.sqlite']
    return {
        path.name: path.read_bytes()[: 128 + 20 * ROW if path.suffix == '.npy' else None] for path in files
    }


@pytest.mark.parametrize('name', ['embeddings.npy', 'items.parquet', 'index.json'])
@pytest.mark.parametrize('content', [b'', b'garbage', b'\x93NUMPY\x01\x00', b'PAR1PAR1', None])
def test_files_that_are_empty_garbage_or_missing(name, content, tmp_path):
    add(tmp_path, names(0, 20))
    (tmp_path / name).write_bytes(content) if content is not None else (tmp_path / name).unlink()
    missing = 'holds no index|holds an embeddings.npy but no index.json'
    refused(tmp_path, missing if (name, content) == ('index.json', None) else rf'{name} is damaged \(')


@pytest.mark.parametrize('place', [128, 128 + 7 * ROW + 3, 128 + 18 * ROW])
@pytest.mark.parametrize(
    'damage',
    [
        lambda content, place: content[:place] + b'\x60\x61' + content[place:],  # similarities of 1e32
        lambda content, place: content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :],
        lambda content, place: content[:place] + content[place + ROW :] + content[place : place + ROW],
    ],
    ids=['inserted', 'flipped', 'moved'],
)
def test_embeddings_that_are_not_those_that_were_written(place, damage, tmp_path):
    add(tmp_path, names(0, 20))
    path = tmp_path / 'embeddings.npy'
    changed = damage(path.read_bytes(), place)
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    refused(tmp_path, r'embeddings\.npy is damaged \(its checksum is wrong\); embed its images into another')


def test_flipped_bytes_of_the_items_are_noticed(tmp_path):
    add(tmp_path, names(0, 20))
    path = tmp_path / 'items.parquet'
    content, refusals = path.read_bytes(), {}
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], 'little')  # its length and PAR1 end the file
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            index = Index(tmp_path)
            assert index.items(range(20)) == items_of(names(0, 20))  # e.g. a statistic that nobody reads
        except UserError as error:
            assert 'items.parquet is damaged (' in str(error)
            refusals[place] = str(error)
    assert {place for place in range(0, len(content), 7) if place >= footer} <= refusals.keys()
    assert any('its checksum is wrong' in refusal for refusal in refusals.values())
    assert sum(place < footer for place in refusals) > footer / 7 / 2


@pytest.mark.parametrize(
    ('field', 'value', 'why'),
    [
        ('images', None, 'images is missing'),
        ('images', '20', 'images cannot be "20"'),
        ('images', True, 'images cannot be true'),
        ('images', -1, 'images cannot be -1'),
        ('images', 21, r'(embeddings\.npy|items\.parquet) is damaged'),
        ('dimensions', 0, 'dimensions cannot be 0'),
        ('dimensions', 12.0, r'dimensions cannot be 12\.0'),
        ('scale', None, 'scale is missing'),
        ('scale', 1e32, r'scale cannot be 1e\+32'),
        ('scale', 0.5, r'scale is 0\.5 and must be 1\.0'),
        ('bound', float('nan'), 'bound cannot be NaN'),
        ('storage', 'int4', 'storage cannot be "int4"'),
        ('storage', 'int8', 'scale is 1.0 and must be'),
        ('storage', [], r'storage cannot be \[\]'),
        ('vectors', 'no', 'vectors cannot be "no"'),
        ('checkpoint', [], 'checkpoint is not a JSON object'),
        ('checkpoint', ABOUT['checkpoint'] | {'step': None}, r'checkpoint\.step cannot be null'),
        ('checkpoint', ABOUT['checkpoint'] | {'config': {'embedding': 5}}, r'checkpoint\.config cannot be'),
        ('revision', '../../x', r'revision cannot be "\.\./\.\./x"'),
        ('unreadable', {'a': 1}, 'unreadable cannot be'),
        ('versions', 'jax', 'versions cannot be "jax"'),
        ('crc32', 7, 'crc32 cannot be 7'),
        ('crc32', {}, r'embeddings\.npy is damaged \(its checksum is wrong'),
        ('preprocessing', 'x' * 5_000, r'preprocessing cannot be "xxx.*…'),
    ],
)
def test_fields_that_are_missing_or_of_another_type(field, value, why, tmp_path):
    add(tmp_path, names(0, 20))
    path = tmp_path / 'index.json'
    about = json.loads(path.read_text())
    if value is None:
        del about[field]
    else:
        about[field] = value
    path.write_text(json.dumps(about))
    refused(tmp_path, why, read)
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    'text', ['[]', '7', 'null', '[' * 100_000, '{"images": ' + '9' * 5_000 + '}', '\xff']
)
def test_json_of_another_kind(text, tmp_path):
    add(tmp_path, names(0, 20))
    (tmp_path / 'index.json').write_text(text, 'latin-1')
    refused(tmp_path, r'index\.json is damaged \(')


@pytest.mark.parametrize('content', [b'', b'garbage', b'{}', b'\xff\xfe'])
def test_a_damaged_next_state_can_be_removed(content, tmp_path):
    add(tmp_path, names(0, 20))
    (tmp_path / 'index.json.new').write_bytes(content)
    refused(tmp_path, r'index\.json\.new is damaged \(.*\); remove this file, and embed again')
    (tmp_path / 'index.json.new').unlink()
    change(tmp_path)
    read(tmp_path)
    assert len(Index(tmp_path)) == 20


@pytest.mark.parametrize('content', [b'garbage', b'SQLite format 3\x00' + bytes(500)])
def test_a_damaged_journal_can_be_removed(content, tmp_path):
    add(tmp_path, names(0, 20))
    (tmp_path / 'unfinished.sqlite').write_bytes(content)
    read(tmp_path)
    refused(tmp_path, r'unfinished\.sqlite cannot be .*if the file is damaged, remove it', change)
    (tmp_path / 'unfinished.sqlite').unlink()
    change(tmp_path)
    assert len(Index(tmp_path)) == 20


@pytest.mark.parametrize('flipped', [128, 128 + 21 * ROW])
def test_damage_while_unfinished_is_noticed(flipped, tmp_path):
    add(tmp_path, names(0, 20))
    with IndexWriter(tmp_path, ABOUT) as index:
        index.add(items_of(names(20, 25)), embeddings_of(names(20, 25)))
    path = tmp_path / 'embeddings.npy'
    content = bytearray(path.read_bytes())
    content[flipped] ^= 1
    path.write_bytes(content)
    refused(tmp_path, r'embeddings\.npy is damaged \(its checksum is wrong\)', change)
    path.write_bytes(content[: 128 + 22 * ROW])
    refused(tmp_path, r'embeddings\.npy is damaged \(it has 22 rows', change)


def test_an_index_whose_first_process_died_at_once(tmp_path):
    (tmp_path / 'embeddings.npy').touch()
    (tmp_path / 'unfinished.sqlite').touch()
    with pytest.raises(UserError, match=re.escape('holds an embeddings.npy but no index.json')):
        IndexWriter(tmp_path, ABOUT)
    (tmp_path / 'embeddings.npy').unlink()
    with IndexWriter(tmp_path, ABOUT):
        (tmp_path / 'embeddings.npy').write_bytes(b'')
    add(tmp_path, names(0, 20))
    read(tmp_path)


def test_checksums_are_those_of_zlib(tmp_path):
    import zlib

    add(tmp_path, names(0, 20))
    add(tmp_path, names(20, 30))  # goes on from the checksum of the first
    change(tmp_path)  # leaves a hole, and rewrites all
    checksums = json.loads((tmp_path / 'index.json').read_text())['crc32']
    assert checksums['embeddings.npy'] == zlib.crc32((tmp_path / 'embeddings.npy').read_bytes()[128:])
    add(tmp_path, names(40, 41))
    checksums = json.loads((tmp_path / 'index.json').read_text())['crc32']
    assert checksums['embeddings.npy'] == zlib.crc32((tmp_path / 'embeddings.npy').read_bytes()[128:])
    footer = (tmp_path / 'items.parquet').read_bytes()[:-8]
    assert checksums['items.parquet'] == zlib.crc32(
        footer[-parquet.read_metadata(tmp_path / 'items.parquet').serialized_size :]
    )


def test_an_index_of_an_earlier_version_has_no_checksums(tmp_path):
    add(tmp_path, names(0, 20))
    path = tmp_path / 'index.json'
    about = json.loads(path.read_text())
    del about['crc32']
    path.write_text(json.dumps(about))
    read(tmp_path)
    change(tmp_path)
    read(tmp_path)
    assert 'crc32' in Index(tmp_path).about

    path.write_text(json.dumps(about | {'images': 20}))
    embeddings = np.load(tmp_path / 'embeddings.npy')
    embeddings[4, 4] = 1e32
    np.save(tmp_path / 'embeddings.npy', embeddings)
    refused(tmp_path, r'embeddings\.npy is damaged \(it holds embeddings that are not of length 1\)', read)


def test_a_config_of_another_kind_is_damage(tmp_path):
    about = {'checkpoint': {'config': {'mirrored': 'yes'}}}
    with pytest.raises(UserError, match=r"index.json is damaged \(mirrored is 'yes'\); embed its images"):
        compatibility.config_of(tmp_path, about)


def test_another_pca_is_another_index(tmp_path):
    made_by = {'workdir': 'runs/x', 'step': 3, 'fingerprint': 'f', 'config': {}}
    of = {'dimensions': 4, 'preprocessing': {}}
    there = of | {'checkpoint': made_by | {'pca': 'a'}}
    compatibility.refuse_other_checkpoint(tmp_path, there, there)
    compatibility.refuse_other_checkpoint(tmp_path, of | {'checkpoint': made_by}, there)  # an older index
    with pytest.raises(UserError, match='was reduced by another PCA than step 3 of runs/x has now'):
        compatibility.refuse_other_checkpoint(tmp_path, there, of | {'checkpoint': made_by | {'pca': 'b'}})
