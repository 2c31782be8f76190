"""What a search prints and draws."""

import csv
import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.looking import begun, files

from sreml_jax.embedder import Embedder
from sreml_jax.runtime.errors import UserError
from sreml_jax.search.answers import Answer, written
from sreml_jax.search.embed import embed
from sreml_jax.search.exact import Match
from sreml_jax.search.index import Index, Item
from sreml_jax.search.queries import read
from sreml_jax.search.query import answer, print_answers
from sreml_jax.search.verdict import Verdict


@pytest.fixture(scope='module')
def embedder(tmp_path_factory) -> Embedder:
    """Of a run that has only begun."""
    return Embedder(begun(tmp_path_factory.mktemp('query') / 'run'))


@pytest.fixture(scope='module')
def photographs(tmp_path_factory) -> list[Path]:
    """42 pictures, a folder a class."""
    return files(tmp_path_factory.mktemp('photos'))


@pytest.fixture(scope='module')
def index(embedder, photographs, tmp_path_factory) -> Index:
    """Of these pictures."""
    folder = tmp_path_factory.mktemp('index') / 'index'
    embed(embedder, str(photographs[0].parents[1]), folder)
    return Index(folder)


@pytest.fixture(scope='module')
def similarity(embedder, photographs) -> np.ndarray:
    """Of each picture to each, itself at -2: float32 [42, 42]."""
    embeddings = embedder.images(np.stack([np.asarray(Image.open(path)) for path in photographs]))
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -2)
    return similarity


def nearest(row: np.ndarray, number: int) -> list[int]:
    return np.argsort(-row, kind='stable')[:number].tolist()


def test_matches_are_printed_returned_and_drawn(embedder, index, photographs, similarity, tmp_path, capsys):
    queries = [str(photographs[i]) for i in (3, 30)]
    sheet = tmp_path / 'sheet.png'
    found = print_answers(embedder, index, queries, sheet, top=3)

    printed = iter(capsys.readouterr().out.splitlines())
    for i, query, one in zip((3, 30), queries, found, strict=True):
        want = nearest(similarity[i], 3)  # without itself
        assert [match.item.path for match in one.matches] == [str(photographs[j]) for j in want]
        assert next(printed) == one.query == query
        for rank, j in enumerate(want, 1):
            shown = re.fullmatch(r' +(\d+) +([\d.-]+)  (\S+) +(.*)', next(printed))
            assert (shown[1], shown[4]) == (str(rank), str(photographs[j]))
            assert shown[3] == photographs[j].parent.name
            assert abs(float(shown[2]) - similarity[i, j]) < 1e-4
    assert next(printed) == f'{sheet} shows them'
    with Image.open(sheet) as picture:
        assert picture.format == 'PNG'
    assert [path.name for path in tmp_path.iterdir()] == ['sheet.png']


def test_copies_of_a_query_are_left_out_whatever_their_names(embedder, photographs, tmp_path):
    for i in range(5):
        (tmp_path / f'copy{i}.png').write_bytes(photographs[7].read_bytes())
    for i in (8, 9):
        (tmp_path / f'other{i}.png').write_bytes(photographs[i].read_bytes())
    embed(embedder, str(tmp_path), tmp_path.with_name('copies'))
    index = Index(tmp_path.with_name('copies'))
    queries = read(embedder, [str(photographs[7]), str(photographs[10])])
    copied, other = answer(embedder, index, queries, top=3)
    assert {Path(match.item.path).name for match in copied.matches} == {'other8.png', 'other9.png'}
    assert [match.rank for match in copied.matches] == [1, 2]
    assert len(other.matches) == 3


def test_folders_globs_and_files_are_searched_each_once(embedder, photographs, tmp_path, monkeypatch):
    root = photographs[0].parents[1]
    hidden = tmp_path / '.hidden.png'
    hidden.write_bytes(photographs[0].read_bytes())
    named = [str(photographs[3]), str(root / 'class8'), str(root / 'class*' / '0*.png'), str(hidden)]
    queries = read(embedder, named)
    of_class = [str(p) for p in photographs if p.parent.name == 'class8']
    single = [str(p) for p in photographs if p.name.startswith('0')]
    want = dict.fromkeys([str(photographs[3]), *of_class, *single, str(hidden)])
    assert queries.paths == list(want) and not queries.problems
    assert queries.hashes == [hashlib.sha256(Path(p).read_bytes()).hexdigest() for p in want]
    pixels = np.stack([np.asarray(Image.open(path)) for path in want])
    np.testing.assert_allclose(queries.embeddings, embedder.images(pixels), atol=1e-6)
    monkeypatch.chdir(root)
    assert read(embedder, ['class8/../class9']).paths == [
        str(p) for p in photographs if p.parent.name == 'class9'
    ]
    name = str(photographs[3].relative_to(root))
    assert read(embedder, [name]).paths == [name]


def test_a_bad_file_is_named_and_the_others_are_answered(embedder, index, photographs, tmp_path, capsys):
    (tmp_path / 'notes.jpg').write_text('no picture')
    named = [str(tmp_path / 'notes.jpg'), str(photographs[3]), '/nowhere/x*.jpg']
    with pytest.raises(UserError) as error:
        print_answers(embedder, index, named, tmp_path / 'sheet.png', top=2)
    assert re.fullmatch(
        r'2 of 3 queries cannot be read: /nowhere/x\*\.jpg: there is no such file, and no picture below it; '
        r'\S+/notes\.jpg: not an image',
        str(error.value),
    )
    head, *matches, last = capsys.readouterr().out.splitlines()
    assert head == str(photographs[3]) and len(matches) == 2 and last.endswith('sheet.png shows them')


def test_json_and_csv_hold_the_same_and_nothing_else(
    embedder, index, photographs, similarity, tmp_path, capsys
):
    query, sheet = str(photographs[5]), tmp_path / 'sheet.png'
    threshold = float(np.sort(similarity[5])[-3:].mean())  # between the first and the third
    want = nearest(similarity[5], 4)
    known = [bool(similarity[5, j] >= threshold) for j in want]
    for kind in ('json', 'csv'):
        print_answers(embedder, index, [query], sheet, top=4, kind=kind, voters=1, threshold=threshold)
        output, errors = capsys.readouterr()
        assert errors == f'{sheet} shows them\n'
        if kind == 'json':
            ((entry),) = json.loads(output)
            assert (entry['query'], entry['unknown'], entry['threshold']) == (query, False, threshold)
            label = photographs[want[0]].parent.name
            assert (entry['class'], entry['votes'], entry['voters']) == (label, 1, 1)
            rows = entry['matches']
        else:
            rows = list(csv.DictReader(io.StringIO(output)))
            assert {(row['query'], row['vote']) for row in rows} == {(query, label)}
            assert [row['known'] for row in rows] == [str(k).lower() for k in known]
        assert [(int(row['rank']), row['class'], row['path']) for row in rows] == [
            (rank, photographs[j].parent.name, str(photographs[j])) for rank, j in enumerate(want, 1)
        ]
        np.testing.assert_allclose([float(row['similarity']) for row in rows], similarity[5, want], atol=1e-5)


def test_names_are_data_in_csv_and_json():
    odd = 'a "b",\n\x1b[31m.png'
    item = Item(odd, 1, 1, None, '')
    answers = [Answer(odd, [Match(1, 0.5, 0, item)], Verdict(None, None, 0, 0))]
    ((query, *_, known, vote), *none) = list(csv.reader(io.StringIO(written(answers, 'csv', None))))[1:]
    assert (query, known, vote, none) == (odd, '', '', [])
    assert json.loads(written(answers, 'json', None))[0]['matches'][0]['path'] == odd
    assert written(answers, 'table', None) == 'a "b",\\n\\x1b[31m.png\n  1   0.5000  a "b",\\n\\x1b[31m.png'


def matches_of(*found: tuple[float, str | None]) -> list[Match]:
    return [
        Match(rank, similarity, rank, Item(f'{rank}.png', 1, 1, label, str(rank)))
        for rank, (similarity, label) in enumerate(found, 1)
    ]


@pytest.mark.parametrize(
    ('voters', 'threshold', 'verdict'),
    [
        (0, None, (None, None, 0, 0)),
        (1, None, (None, 'b', 1, 1)),
        (3, None, (None, 'b', 1, 2)),  # the one without a class does not vote
        (5, None, (None, 'a', 2, 4)),
        (5, 0.75, (False, 'b', 1, 2)),  # 0.8 and 0.9 vote: a tie that the more similar one decides
        (5, 0.95, (True, None, 0, 0)),
    ],
)
def test_the_verdict_of_the_neighbors(voters, threshold, verdict):
    matches = matches_of((0.9, 'b'), (0.8, 'a'), (0.7, None), (0.6, 'a'), (0.5, 'c'))
    assert Verdict.of(matches, voters, threshold) == verdict


def test_a_picture_that_is_gone_is_drawn_white(embedder, photographs, tmp_path):
    copy = tmp_path / 'copy.png'
    copy.write_bytes(photographs[5].read_bytes())
    embed(embedder, str(copy), tmp_path / 'index')
    copy.unlink()
    print_answers(embedder, Index(tmp_path / 'index'), [str(photographs[6])], tmp_path / 'sheet.png', top=1)
    pixels = np.asarray(Image.open(tmp_path / 'sheet.png').convert('RGB'))
    first = 28 + 128 + 2 * 5 + 12 + 36 + 5  # left edge of the first match's tile
    assert (pixels[49 : 49 + 128, first : first + 128] == 255).all()
    assert not (pixels[49 : 49 + 128, 33 : 33 + 128] == 255).all()


def test_names_with_control_characters_are_escaped(embedder, photographs, tmp_path, capsys):
    path = tmp_path / 'photos' / 'a\nclass' / 'red\x1b[31m.png'
    path.parent.mkdir(parents=True)
    path.write_bytes(photographs[5].read_bytes())
    (path.parent / 'no\rpicture.png').write_text('text')
    embed(embedder, str(tmp_path / 'photos'), tmp_path / 'index')
    index = Index(tmp_path / 'index')
    copy = tmp_path / 'red\x1b[31m.png'
    copy.write_bytes(photographs[6].read_bytes())
    (found,) = print_answers(embedder, index, [str(copy)], tmp_path / 'sheet\n.png', top=1)
    assert found.matches[0].item.path == str(path)  # to a program the name is what it is
    lines = capsys.readouterr().out.split('\n')
    assert all(line.isprintable() for line in lines)
    query, match, last, _ = lines[-4:]
    assert query == rf'{tmp_path}/red\x1b[31m.png'
    assert match.endswith(rf'  a\nclass  {tmp_path}/photos/a\nclass/red\x1b[31m.png')
    assert last == rf'{tmp_path}/sheet\n.png shows them'
    assert (tmp_path / 'sheet\n.png').exists()
