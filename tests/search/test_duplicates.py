"""Near-duplicates of an index beside brute force over all pairs."""

import csv
import io
import json

import numpy as np
import pytest
from support.indexes import ABOUT, DIMENSIONS, names

from sreml_jax.runtime.errors import UserError
from sreml_jax.search import duplicates
from sreml_jax.search.index import Index, Item
from sreml_jax.search.index.writer import IndexWriter


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def made(folder, embeddings: np.ndarray, hashes: list[str] | None = None, **about) -> Index:
    """An index of these embeddings; images of odd numbers have a class."""
    paths = names(0, len(embeddings))
    hashes = hashes or paths
    items = [
        Item(p, 4, 5, 'cat' if i % 2 else None, h) for i, (p, h) in enumerate(zip(paths, hashes, strict=True))
    ]
    with IndexWriter(folder, ABOUT | {'bound': 1.0} | about) as index:
        index.add(items, embeddings)
        index.finish({})
    return Index(folder)


def rows(groups) -> list[list[int]]:
    return [[int(copy.item.path[-8:-4]) for copy in group] for group in groups]


def linked(embeddings: np.ndarray, least: float) -> list[list[int]]:
    """Groups by following pairs one after another."""
    cosines, left, groups = embeddings @ embeddings.T, set(range(len(embeddings))), []
    while left:
        group, new = set(), {min(left)}
        while new:
            group |= new
            new = {j for i in new for j in left if cosines[i, j] >= least} - group
        left -= group
        if len(group) > 1:
            groups.append(sorted(group))
    return sorted(groups, key=lambda group: (-len(group), group[0]))


@pytest.mark.parametrize('storage', ['float32', 'float16', 'int8'])
def test_groups_are_those_of_all_pairs(storage, tmp_path):
    random = np.random.default_rng(0)
    near = np.repeat(unit(random.normal(size=(12, DIMENSIONS))), [1, 2, 3, 1, 5, 1, 2, 1, 1, 4, 1, 1], axis=0)
    embeddings = random.permutation(unit(near + random.normal(0, 0.01, near.shape)))
    index = made(tmp_path / 'index', embeddings, storage=storage)
    stored = unit(index.embeddings.astype(np.float32))
    for least in (0.9, 0.995):
        want = linked(stored, least)
        groups = duplicates.find(index, least)
        assert rows(groups) == want
        for group, members in zip(groups, want, strict=True):
            similar = [copy.similarity for copy in group]
            np.testing.assert_allclose(similar, stored[members] @ stored[members[0]], atol=1e-5)
    assert [len(group) for group in linked(stored, 0.9)] == [5, 4, 3, 2, 2]
    # As int8, the product of these two is below 0.995, and their cosine above it.
    pair = made(tmp_path / 'pair', embeddings[[0, 3]], storage=storage)
    assert rows(duplicates.find(pair, 0.995)) == [[0, 1]]


def test_a_group_may_have_more_images_than_each_links_to(tmp_path):
    random = np.random.default_rng(0)
    embeddings = np.concatenate(
        [np.tile(unit(random.normal(size=DIMENSIONS)), (50, 1)), unit(random.normal(size=(9, DIMENSIONS)))]
    )
    order = random.permutation(59)
    groups = duplicates.find(made(tmp_path / 'index', embeddings[order]), 0.999)
    assert rows(groups) == [np.flatnonzero(order < 50).tolist()]


def test_an_index_without_duplicates_and_one_image_alone(tmp_path):
    for number in (1, 3):
        index = made(tmp_path / f'index{number}', np.eye(number, DIMENSIONS, dtype=np.float32))
        assert duplicates.find(index, 0.5) == []
        assert duplicates.written([], 'table') == '0 images in 0 groups: 0 could go'
        assert json.loads(duplicates.written([], 'json')) == []


def test_the_same_in_every_format(tmp_path):
    embeddings = np.eye(5, DIMENSIONS, dtype=np.float32)
    embeddings[3] = embeddings[1]
    embeddings[4] = unit(embeddings[2] + 0.1 * embeddings[0])
    groups = duplicates.find(made(tmp_path / 'index', embeddings, ['a', 'b', 'c', 'b', 'e']), 0.99)
    cosine = 1 / np.sqrt(1.01)
    assert duplicates.written(groups, 'table').splitlines() == [
        'group 1: 2 images',
        '   1.0000  cat             /photos/0001.jpg',
        '   1.0000  cat  same file  /photos/0003.jpg',
        'group 2: 2 images',
        '   1.0000                  /photos/0002.jpg',
        f'   {cosine:.4f}                  /photos/0004.jpg',
        '4 images in 2 groups: 2 could go',
    ]
    (first, second) = json.loads(duplicates.written(groups, 'json'))
    assert [one['path'] for one in first + second] == [f'/photos/000{i}.jpg' for i in (1, 3, 2, 4)]
    assert [one['same_file'] for one in first + second] == [False, True, False, False]
    assert [one['class'] for one in first + second] == ['cat', 'cat', None, None]
    lines = list(csv.DictReader(io.StringIO(duplicates.written(groups, 'csv'))))
    assert [line['group'] for line in lines] == ['1', '1', '2', '2']
    assert [line['same_file'] for line in lines] == ['false', 'true', 'false', 'false']
    assert float(lines[3]['similarity']) == pytest.approx(cosine, abs=1e-6)


def test_damage_is_one_sentence(tmp_path):
    index = made(tmp_path / 'index', np.eye(3, DIMENSIONS, dtype=np.float32))
    path = tmp_path / 'index' / 'embeddings.npy'
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match='its checksum is wrong'):
        duplicates.find(Index(index.folder))
