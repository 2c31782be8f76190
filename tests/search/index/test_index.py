"""The index on disk: added to, removed from, killed, refused; read by numpy, pandas and DuckDB."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from support.indexes import ABOUT, DIMENSIONS, MEMBERS, add, embeddings_of, items_of, names
from support.paths import ROOT, TESTS

from sreml_jax.retrieval import quantization
from sreml_jax.runtime.errors import UserError
from sreml_jax.search.index import Index, writer
from sreml_jax.search.index.writer import IndexWriter


def check(folder: Path, paths: list[str], seeds: dict[str, int] | None = None) -> None:
    """Asserts that the index holds these images in this order, and no file that is not its own."""
    index = Index(folder)
    assert [item.path for item in index.items(np.arange(len(index)))] == paths
    want = np.concatenate([embeddings_of([p], (seeds or {}).get(p, 0)) for p in paths] or [np.empty((0, 12))])
    np.testing.assert_array_equal(index.embeddings, want)
    np.testing.assert_array_equal(np.load(folder / 'embeddings.npy'), want)
    assert sorted(p.name for p in folder.iterdir()) == ['embeddings.npy', 'index.json', 'items.parquet']


def test_images_are_added_behind_those_that_are_there(tmp_path):
    folder = tmp_path / 'new' / 'index'
    add(folder, names(0, 5))
    check(folder, names(0, 5))
    before = Index(folder)
    add(folder, names(5, 9))
    check(folder, names(0, 9))
    np.testing.assert_array_equal(before.embeddings, embeddings_of(names(0, 5)))  # of who had it open
    about = json.loads((folder / 'index.json').read_text())
    assert about['images'] == 9
    assert about['checkpoint'] == ABOUT['checkpoint'] and about['preprocessing'] == ABOUT['preprocessing']
    assert about['versions'] == {'jax': '1'}
    assert about['revision'] != before.about['revision']


def test_an_image_of_the_same_path_takes_the_place_of_the_old_one(tmp_path):
    add(tmp_path, names(0, 5))
    add(tmp_path, names(1, 2) + names(6, 7), seed=1)
    kept = names(0, 1) + names(2, 5)
    check(tmp_path, [*kept, *names(1, 2), *names(6, 7)], dict.fromkeys(names(1, 2) + names(6, 7), 1))


def test_images_are_removed(tmp_path):
    add(tmp_path, names(0, 60))
    with IndexWriter(tmp_path) as index:
        assert index.remove(lambda path: path[-5] == '3' or path == '/photos/0059.jpg') == 7
        index.finish({})
    kept = [n for n in names(0, 60) if n[-5] != '3' and n != '/photos/0059.jpg']
    check(tmp_path, kept)
    add(tmp_path, names(60, 62))
    check(tmp_path, kept + names(60, 62))
    with IndexWriter(tmp_path) as index:
        index.remove(lambda path: True)
        index.finish({})
    check(tmp_path, [])


def test_the_hash_tells_what_is_known(tmp_path):
    add(tmp_path, names(0, 2))
    with IndexWriter(tmp_path, ABOUT) as index:
        assert index.sha256('/photos/0001.jpg') == '0/photos/0001.jpg'
        assert index.sha256('/photos/0002.jpg') == ''


def test_unreadable_images_are_listed_until_they_are_readable(tmp_path):
    with IndexWriter(tmp_path, ABOUT) as index:
        index.add(items_of(names(0, 2)), embeddings_of(names(0, 2)))
        index.leave_out('/photos/0001.jpg', '/photos/0001.jpg: not an image')  # it was, until now
        index.leave_out('/photos/0005.jpg', '/photos/0005.jpg: empty file')
        index.finish({})
    check(tmp_path, names(0, 1))
    assert Index(tmp_path).about['unreadable'] == {
        '/photos/0001.jpg': '/photos/0001.jpg: not an image',
        '/photos/0005.jpg': '/photos/0005.jpg: empty file',
    }
    add(tmp_path, names(1, 2))
    check(tmp_path, names(0, 2))
    assert list(Index(tmp_path).about['unreadable']) == ['/photos/0005.jpg']
    with IndexWriter(tmp_path) as index:
        assert index.remove(lambda path: path == '/photos/0005.jpg') == 0
        index.finish({})
    assert Index(tmp_path).about['unreadable'] == {}


def killed_everywhere(folder: Path) -> None:
    """Kills the same change of an index at every third line of the package, on a copy each time."""
    add(folder, names(0, 3))
    writer.COMMIT_SECONDS = -1
    os.fsync = lambda file: None  # no power is cut here
    after = [*names(0, 1), *names(2, 3), *names(10, 12)]
    seen = []

    def change(copy: Path) -> None:
        with IndexWriter(copy, ABOUT) as index:
            index.remove(lambda path: path == '/photos/0001.jpg')
            for name in names(10, 12):
                if not index.sha256(name):
                    index.add(items_of([name]), embeddings_of([name]))
            index.finish({})

    for line in itertools.count(1, 3):
        copy = folder.parent / str(line)
        shutil.copytree(folder, copy)
        if not (child := os.fork()):
            left = itertools.count(line, -1)

            def trace(frame, event, _, left=left):
                if 'sreml_jax/search/index' not in frame.f_code.co_filename:
                    return None
                if event == 'line' and not next(left):
                    os.kill(os.getpid(), signal.SIGKILL)
                return trace

            sys.settrace(trace)
            change(copy)
            sys.settrace(None)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        try:
            index = Index(copy)
            paths = [item.path for item in index.items(range(len(index)))]
            assert np.array_equal(index.embeddings, embeddings_of(paths))
        except UserError as error:
            assert 'being changed' in str(error)
            paths = ['changing']
        seen.append(paths)
        change(copy)
        check(copy, after)
        shutil.rmtree(copy)
        if not status:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
    # A reader finds the old state, then none, then the new one.
    assert [paths for paths, _ in itertools.groupby(seen)] == [names(0, 3), ['changing'], after]
    print(len(seen))


def test_killed_at_any_point_a_reader_sees_the_old_state_or_the_new(tmp_path):
    # In a process of its own: one with JAX's threads must not fork. In memory, for SQLite waits for the disk.
    memory = Path('/dev/shm')
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(map(str, [Path(__file__).parent, TESTS, ROOT]))}
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        code = f'from test_index import *; killed_everywhere(Path({folder!r}) / "index")'
        done = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 70


def test_what_was_embedded_before_a_kill_is_known_after_it(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, 'COMMIT_SECONDS', -1)
    index = IndexWriter(tmp_path, ABOUT)
    index.add(items_of(names(0, 3)), embeddings_of(names(0, 3)))
    monkeypatch.setattr(writer, 'COMMIT_SECONDS', 1000)
    index.add(items_of(names(3, 5)), embeddings_of(names(3, 5)))
    index._journal.close()  # as a killed process leaves it: what is not committed is lost
    with pytest.raises(UserError, match='holds no index; it is unfinished'):
        Index(tmp_path)
    with IndexWriter(tmp_path, ABOUT) as index:
        assert [bool(index.sha256(name)) for name in names(0, 5)] == [True] * 3 + [False] * 2
        index.add(items_of(names(4, 6)), embeddings_of(names(4, 6)))
        index.finish({})
    check(tmp_path, names(0, 3) + names(4, 6))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            {'checkpoint': ABOUT['checkpoint'] | {'fingerprint': 'x', 'step': 9}},
            'by step 7 of /runs/a, not by',
        ),
        (
            {'preprocessing': ABOUT['preprocessing'] | {'image_size': 32}},
            'image_size is 16 there and 32 here',
        ),
        (
            {'preprocessing': ABOUT['preprocessing'] | {'image_size': '\x1b[31m'}},
            r'image_size is 16 there and \\x1b\[31m here',
        ),
        (
            {'checkpoint': ABOUT['checkpoint'] | {'config': {'embedding': 'pooled'}}},
            'made of logits and this run makes them of pooled features; set --config.embedding as',
        ),
        (
            {'checkpoint': ABOUT['checkpoint'] | {'config': {'mirrored': True}}},
            'of images alone and this run embeds them with their mirror images; set --config.mirrored as',
        ),
        ({'storage': 'int8'}, 'is stored as float32, not as int8'),
    ],
)
def test_another_kind_is_refused(change, message, tmp_path):
    add(tmp_path, names(0, 3))
    with pytest.raises(UserError, match=message):
        IndexWriter(tmp_path, ABOUT | change)
    (tmp_path / 'unfinished.sqlite').unlink()
    check(tmp_path, names(0, 3))
    # The same of one that is not finished yet.
    with IndexWriter(tmp_path / 'begun', ABOUT):
        pass
    with pytest.raises(UserError, match=message):
        IndexWriter(tmp_path / 'begun', ABOUT | change)


def test_one_process_at_a_time(tmp_path):
    with IndexWriter(tmp_path, ABOUT) as index:
        with pytest.raises(UserError, match='another process is at work'):
            IndexWriter(tmp_path, ABOUT)
        index.finish({})
    check(tmp_path, [])


def test_folders_without_an_index(tmp_path):
    for make in (Index, IndexWriter):
        with pytest.raises(UserError, match='holds no index'):
            make(tmp_path / 'nowhere')
    assert not (tmp_path / 'nowhere').exists()
    np.save(tmp_path / 'embeddings.npy', np.zeros(3))
    with pytest.raises(UserError, match=r'an embeddings.npy but no index.json'):
        IndexWriter(tmp_path, ABOUT)
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='cannot be written'):
        IndexWriter(tmp_path / 'file', ABOUT)


def test_nothing_pickled_is_read(tmp_path):
    add(tmp_path, names(0, 3))
    np.save(tmp_path / 'embeddings.npy', np.array([[print] * DIMENSIONS] * 3, object))
    with pytest.raises(UserError, match=r'embeddings\.npy is damaged'):
        Index(tmp_path)


def test_files_that_disagree_are_refused(tmp_path):
    add(tmp_path, names(0, 3))
    np.save(tmp_path / 'embeddings.npy', np.zeros((2, DIMENSIONS), np.float32))
    with pytest.raises(UserError, match=r'embeddings\.npy is damaged \(it does not hold 3 rows of 12\)'):
        Index(tmp_path)


@pytest.mark.parametrize(
    ('kind', 'error'), [('float32', 0), ('float16', 2**-12), ('int8', 0.5 / 127 / np.sqrt(MEMBERS) + 1e-6)]
)
def test_storage(kind, error, tmp_path):
    add(tmp_path, names(0, 50), storage=kind)
    index = Index(tmp_path)
    assert index.embeddings.dtype == kind
    assert (tmp_path / 'embeddings.npy').stat().st_size == 128 + index.embeddings.nbytes
    want = embeddings_of(names(0, 50))
    np.testing.assert_allclose(index.embeddings * index.scale, want, rtol=0, atol=error)
    add(tmp_path, names(50, 51))  # stays what it is
    assert Index(tmp_path).embeddings.dtype == kind


def test_int8_holds_the_greatest_numbers_there_are():
    one = np.array([[1, 0, 0, -1]], np.float32) / np.sqrt(2)
    scale = quantization.scale_of('int8', 2**-0.5)
    assert quantization.encode(one, 'int8', scale).tolist() == [[127, 0, 0, -127]]
    np.testing.assert_allclose(
        quantization.decode(quantization.encode(one, 'int8', scale), scale), one, rtol=1e-6
    )


def test_items_of_any_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, 'GROUP_ROWS', 7)
    add(tmp_path, names(0, 40))
    rows = [39, 0, 7, 6, 13, 14, 7]
    assert Index(tmp_path).items(rows) == [items_of(names(0, 40))[row] for row in rows]
    assert Index(tmp_path).items([]) == []


@pytest.mark.parametrize('kind', ['float32', 'int8'])
def test_pandas_and_duckdb_read_the_vectors(kind, tmp_path, monkeypatch):
    pandas = pytest.importorskip('pandas', reason='pandas is not installed')
    duckdb = pytest.importorskip('duckdb', reason='duckdb is not installed')
    monkeypatch.setattr(writer, 'GROUP_ROWS', 7)
    add(tmp_path, names(0, 10), storage=kind)
    add(tmp_path, names(10, 20), vectors=True)
    add(tmp_path, names(20, 30))  # the column stays
    parquet = str(tmp_path / 'items.parquet')
    query = embeddings_of(names(17, 18))[0]

    table = pandas.read_parquet(parquet)
    assert list(table.columns) == ['path', 'width', 'height', 'class', 'sha256', 'embedding']
    assert table.path.tolist() == names(0, 30)
    assert table['class'].isna().tolist() == [i % 10 % 3 > 0 for i in range(30)]
    vectors = np.stack(table.embedding)
    np.testing.assert_allclose(vectors, embeddings_of(names(0, 30)), atol=0 if kind == 'float32' else 0.003)
    assert table.path[(vectors @ query).argmax()] == '/photos/0017.jpg'

    nearest = duckdb.sql(f"""
        SELECT path, array_cosine_similarity(embedding::FLOAT[12], {query.tolist()}::FLOAT[12]) AS similarity
        FROM '{parquet}' ORDER BY similarity DESC LIMIT 3
    """).fetchall()
    cosine = embeddings_of(names(0, 30)) @ query
    assert [path for path, _ in nearest] == [names(0, 30)[i] for i in np.argsort(-cosine)[:3]]
    np.testing.assert_allclose([s for _, s in nearest], np.sort(cosine)[::-1][:3], atol=0.01)
