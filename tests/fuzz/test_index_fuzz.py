"""Damaged index folders are refused by one sentence, or give the right results: nothing else happens.

The long form: SREML_FUZZ_CASES=3000 python -m pytest -n0 -s tests/fuzz/test_index_fuzz.py
"""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from support.indexes import ABOUT, add, embeddings_of, items_of, names
from support.mutations import cases, mutated, odd_object

from sreml_jax.runtime.errors import RunError, UserError
from sreml_jax.search.exact import search
from sreml_jax.search.index import Index
from sreml_jax.search.index.writer import IndexWriter

CASES = 240
FILES = ('embeddings.npy', 'items.parquet', 'index.json', 'unfinished.sqlite', 'index.json.new')


def damage(folder: Path, random: np.random.Generator) -> str:
    """Damages one file of an index; returns which."""
    name = FILES[random.integers(len(FILES))]
    path = folder / name
    about = (folder / 'index.json').read_text()
    if name.startswith('index.json') and random.integers(2):
        path.write_text(json.dumps(odd_object(json.loads(about), random)))
    elif name == 'index.json.new':
        path.write_bytes(mutated(about.encode(), random))
    elif random.integers(20) == 0:
        path.unlink()
    else:
        path.write_bytes(mutated(path.read_bytes(), random))
    return name


def read(folder: Path) -> None:
    """Searches the index, and asserts that what it finds was in it."""
    index = Index(folder)
    query = embeddings_of(names(7, 8))
    rows, similarities = zip(*[(m.row, m.similarity) for m in search(query, index, 5)[0]], strict=True)
    similarity = embeddings_of(names(0, 40)) @ query[0]
    assert list(rows) == np.argsort(-similarity, kind='stable')[:5].tolist()
    np.testing.assert_allclose(similarities, np.sort(similarity)[::-1][:5], atol=1e-6)
    assert index.items(range(len(index))) == items_of(names(0, 40))


def change(folder: Path) -> None:
    """Adds an image and removes another; asserts that the others are as they were."""
    with IndexWriter(folder, ABOUT) as index:
        index.remove(lambda path: path == '/photos/0003.jpg')
        index.add(items_of(names(90, 91)), embeddings_of(names(90, 91)))
        index.finish({})
    index = Index(folder)
    index.verify()
    paths = [item.path for item in index.items(range(len(index)))]
    known = set(names(0, 60) + names(90, 91)) - {'/photos/0003.jpg'}
    for path, embedding in zip(paths, index.embeddings, strict=True):
        if path in known:  # the journal has no checksum: a name in it may be another one
            np.testing.assert_array_equal(embedding, embeddings_of([path])[0])


def test_a_damaged_folder(tmp_path):
    good = tmp_path / 'good'
    add(good, names(0, 40))
    with IndexWriter(good, ABOUT) as begun:
        begun.add(items_of(names(50, 60)), embeddings_of(names(50, 60)))
    kept = {path.name: path.read_bytes() for path in good.iterdir()}
    counts = Counter()
    for case in range(cases(CASES)):
        random = np.random.default_rng(case)
        folder = tmp_path / 'damaged'
        shutil.copytree(good, folder)
        name = damage(folder, random)
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        for work in (read, change):
            try:
                work(folder)
                counts[f'{work.__name__}: accepted'] += 1
            except (UserError, RunError) as error:
                assert len(str(error).splitlines()) == 1 and len(str(error)) < 1_000, (case, name, error)
                assert str(error).isprintable(), (case, name, error)
                counts[f'{work.__name__}: refused'] += 1
                next_state = folder / 'index.json.new'
                for kind in ('embeddings.npy', 'items.parquet', 'index.json'):
                    # What is empty may get a header. While index.json.new is there, a complete next state is
                    # moved into place, which the next process goes on with.
                    if before.get(kind) and name != 'index.json.new' and not next_state.exists():
                        left, rows = (folder / kind).read_bytes(), 128 + 40 * 12 * 4
                        finished = rows if kind == 'embeddings.npy' else None  # what follows is unfinished
                        assert left[:finished] == before[kind][:finished], (case, name, kind)
            except BaseException as error:
                raise AssertionError(f'case {case}: {name}: {work.__name__}') from error
        shutil.rmtree(folder)
    assert kept == {path.name: path.read_bytes() for path in good.iterdir()}
    assert counts.total() == 2 * cases(CASES) and len(counts) == 4
    print(f'\n{cases(CASES)} damaged folders: {dict(sorted(counts.items()))}')
