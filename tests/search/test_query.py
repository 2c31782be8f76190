"""What a search prints and draws."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.looking import begun, files

from sreml_jax.embedder import Embedder
from sreml_jax.runtime.errors import UserError
from sreml_jax.search.embed import embed
from sreml_jax.search.index import Index
from sreml_jax.search.query import print_matches


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


def test_matches_are_printed_returned_and_drawn(embedder, index, photographs, tmp_path, capsys):
    queries = [str(photographs[i]) for i in (3, 30)]
    sheet = tmp_path / 'sheet.png'
    found = print_matches(embedder, index, queries, sheet, top=3, approximate=False)

    embeddings = embedder.images(np.stack([np.asarray(Image.open(path)) for path in photographs]))
    printed = iter(capsys.readouterr().out.splitlines())
    for i, query, matches in zip((3, 30), queries, found, strict=True):
        similarity = embeddings @ embeddings[i]
        want = np.argsort(-similarity, kind='stable')[:3]
        assert [match.item.path for match in matches] == [str(photographs[j]) for j in want]
        assert next(printed) == query
        for rank, j in enumerate(want, 1):
            shown = re.fullmatch(r' +(\d+) +([\d.-]+)  (.*)', next(printed))
            assert (shown[1], shown[3]) == (str(rank), str(photographs[j]))
            assert abs(float(shown[2]) - similarity[j]) < 1e-4
    assert next(printed) == f'{sheet} shows them'
    with Image.open(sheet) as picture:
        assert picture.format == 'PNG'
    assert [path.name for path in tmp_path.iterdir()] == ['sheet.png']


def test_a_picture_that_is_gone_is_drawn_white(embedder, photographs, tmp_path):
    copy = tmp_path / 'copy.png'
    copy.write_bytes(photographs[5].read_bytes())
    embed(embedder, str(copy), tmp_path / 'index')
    copy.unlink()
    print_matches(
        embedder,
        Index(tmp_path / 'index'),
        [str(photographs[5])],
        tmp_path / 'sheet.png',
        top=1,
        approximate=False,
    )
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
    (matches,) = print_matches(
        embedder, index, [str(path)], tmp_path / 'sheet\n.png', top=1, approximate=False
    )
    assert matches[0].item.path == str(path)  # to a program the name is what it is
    lines = capsys.readouterr().out.split('\n')
    assert all(line.isprintable() for line in lines)
    shown = rf'{tmp_path}/photos/a\nclass/red\x1b[31m.png'
    assert lines[-4:] == [shown, f'  1   1.0000  {shown}', rf'{tmp_path}/sheet\n.png shows them', '']
    assert (tmp_path / 'sheet\n.png').exists()


def test_a_query_that_is_no_picture_is_one_sentence(embedder, index, tmp_path):
    (tmp_path / 'notes.jpg').write_text('no picture')
    with pytest.raises(UserError, match=r'notes\.jpg: not an image'):
        print_matches(
            embedder,
            index,
            [str(tmp_path / 'notes.jpg')],
            tmp_path / 'sheet.png',
            top=1,
            approximate=False,
        )
    assert not (tmp_path / 'sheet.png').exists()
