"""The search page's server: what it finds, what it refuses, many at once."""

import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from support.looking import begun, files, served
from support.paths import ROOT

from sreml_jax.embedder import Embedder
from sreml_jax.runtime.errors import UserError
from sreml_jax.search.batched import Finder
from sreml_jax.search.embed import embed
from sreml_jax.search.index import Index

search_page = pytest.importorskip('sreml_jax.search.server', exc_type=ImportError)
TOP = 5


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A run that has only begun, its test images as files, and their index."""
    folder = tmp_path_factory.mktemp('look')
    files(folder / 'photos')
    embed(Embedder(begun(folder / 'run')), str(folder / 'photos'), folder / 'index')
    return folder


@pytest.fixture(scope='module')
def embedder(folder) -> Embedder:
    """Of that run."""
    return Embedder(folder / 'run')


@pytest.fixture(scope='module')
def paths(folder) -> list[Path]:
    """The images, in the order of the index."""
    return sorted((folder / 'photos').rglob('*.png'))


@pytest.fixture(scope='module')
def similarity(embedder, paths) -> np.ndarray:
    """Of each image to each, float32 [42, 42]."""
    embeddings = embedder.images(np.stack([np.asarray(Image.open(path)) for path in paths]))
    return embeddings @ embeddings.T


@pytest.fixture(scope='module')
def address(folder, embedder) -> str:
    """Where the page is served."""
    with served(Finder(embedder, Index(folder / 'index'), TOP)) as address:
        yield address


def ask(address: str, path: str, body: object = None, method: str = '', **headers: str) -> tuple[int, bytes]:
    """Sends a request with this very path; returns the status and the body of the answer."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    try:
        connection.request(
            method or ('POST' if body is not None else 'GET'),
            path,
            body,
            {name.replace('_', '-'): value for name, value in headers.items()},
        )
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def found(answer: tuple[int, bytes]) -> list[dict]:
    assert answer[0] == 200, answer
    return json.loads(answer[1])['found']


def refusal(answer: tuple[int, bytes], status: int) -> str:
    assert answer[0] == status, answer
    return json.loads(answer[1])['error']


def check(matches: list[dict], similarity: np.ndarray, paths: list[Path]) -> None:
    """Compares matches with one row of similarities; numpy sorts it here."""
    order = np.argsort(-similarity, kind='stable')[:TOP]
    np.testing.assert_allclose([one['similarity'] for one in matches], similarity[order], atol=1e-5)
    for one in matches:
        path = paths[one['number']]
        assert abs(similarity[one['number']] - one['similarity']) < 1e-5
        assert one['name'] == f'{path.parent.name}/{path.name}' and one['class'] == path.parent.name


def test_a_photograph_finds_what_is_most_like_it(address, paths, similarity):
    for i in (0, 17, 41):
        matches = found(ask(address, '/search', paths[i].read_bytes()))
        assert matches[0]['number'] == i
        check(matches, similarity[i], paths)


def test_search_on_from_an_image_of_the_index(address, paths, similarity):
    for i in (3, 40):
        others = similarity[i].copy()
        others[i] = -2  # itself is the query
        check(found(ask(address, f'/search/{i}')), others, paths)


def test_pictures_of_the_index(address, paths):
    status, content = ask(address, '/picture/7')
    assert status == 200
    assert np.array_equal(Image.open(io.BytesIO(content)), Image.open(paths[7]))


@pytest.mark.parametrize(
    'number',
    ['42', '-1', '0.5', '%D9%A3', '9' * 5000, '../index/index.json', '..%2F..%2Fetc%2Fpasswd', '/etc/passwd'],
)
def test_nothing_but_the_index_is_read(address, number):
    for place in ('/picture/', '/search/', '/'):
        refusal(ask(address, place + number), 404)


def picture(width: int, height: int) -> bytes:
    """A white PNG, which is small whatever its size."""
    file = io.BytesIO()
    Image.new('1', (width, height), 1).save(file, 'PNG')
    return file.getvalue()


def test_what_is_no_picture(address, paths, tmp_path, monkeypatch):
    # Whatever would be found as Ghostscript leaves a trace.
    for name in ('gs', 'gswin32c', 'gswin64c'):
        (tmp_path / name).write_text(f'#!/bin/sh\ntouch {tmp_path}/started\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    eps = io.BytesIO()
    Image.new('RGB', (20, 20)).save(eps, 'EPS')
    for content in (
        b'no picture',
        b'',
        paths[0].read_bytes()[:-40],
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        eps.getvalue(),
    ):
        sentence = refusal(ask(address, '/search', content), 415)
        assert sentence == 'this file cannot be read as a picture; take a JPEG, PNG, WebP or the like'
    assert not (tmp_path / 'started').exists()


def test_what_is_too_large(address, monkeypatch):
    for side in (6_500, 10_000, 13_500):  # allowed, warned of and refused by PIL
        sentence = refusal(ask(address, '/search', picture(side, side)), 415)
        assert sentence == 'this picture has more than 40 million pixels; make it smaller'
    wide = found(ask(address, '/search', picture(4000, 10)))
    assert len(wide) == TOP
    monkeypatch.setattr(search_page, 'MOST_BYTES', 2**20)
    for body in (bytes(2**20 + 1), iter([bytes(2**18)] * 5)):  # of a length that is told, and in chunks
        assert (
            refusal(ask(address, '/search', body), 413) == 'this file is larger than 1 MiB; make it smaller'
        )


def test_fifty_at_once_are_all_answered(address, embedder, paths, similarity, monkeypatch):
    batches = []
    images = embedder.images
    monkeypatch.setattr(embedder, 'images', lambda batch: batches.append(len(batch)) or images(batch))

    def one(i: int) -> list[dict]:
        if i % 5 == 4:
            return found(ask(address, f'/search/{i % 42}'))
        return found(ask(address, '/search', paths[i % 42].read_bytes()))

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(one, range(50)))
    for i, matches in enumerate(answers):
        row = similarity[i % 42].copy()
        if i % 5 == 4:
            row[i % 42] = -2
        check(matches, row, paths)
    assert sum(batches) == 40 and max(batches) > 1


def test_the_page_and_its_address(address):
    status, content = ask(address, '/')
    assert status == 200 and b'42 images in index' in content
    assert ask(address, '/', Host='elsewhere.example')[0] == 400
    assert ask(address, '/search', method='DELETE')[0] == 405


def test_an_index_of_another_checkpoint_is_refused(folder, embedder):
    index = Index(folder / 'index')
    index.about['checkpoint']['fingerprint'] = 'other'
    with pytest.raises(UserError, match='was made by another checkpoint'):
        Finder(embedder, index, TOP)


def test_a_picture_that_is_gone(folder, embedder, tmp_path):
    shutil.copytree(folder / 'photos' / 'class8', tmp_path / 'photos')
    embed(embedder, str(tmp_path / 'photos'), tmp_path / 'index')
    shutil.rmtree(tmp_path / 'photos')
    with served(Finder(embedder, Index(tmp_path / 'index'), 100)) as address:
        assert 'is gone' in refusal(ask(address, '/picture/0'), 404)
        assert len(found(ask(address, '/search/0'))) == len(Index(tmp_path / 'index')) - 1


def test_a_port_that_is_taken(folder, embedder, address):
    finder = Finder(embedder, Index(folder / 'index'), TOP)
    with pytest.raises(UserError, match=r'cannot listen at 127\.0\.0\.1, port \d+ \(Address already in use'):
        search_page.serve(finder, '127.0.0.1', urlsplit(address).port)


def test_by_the_command_until_ctrl_c(folder):
    command = [sys.executable, '-m', 'sreml_jax.main', '--mode=serve', f'--workdir={folder / "run"}']
    command += [f'--index={folder / "index"}', '--top=3']
    with subprocess.Popen(
        [*command, '--port=0'], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            line = process.stdout.readline()
            told = re.fullmatch(r'(http://127\.0\.0\.1:\d+) searches 42 images; Ctrl-C ends it\n', line)
            assert told, (line, process.stderr.read())
            photo = next((folder / 'photos').rglob('*.png'))
            assert len(found(ask(told[1], '/search', photo.read_bytes()))) == 3
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert output == '' and errors == 'stopped\n'
