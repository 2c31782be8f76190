"""The search page's server: what it finds, what it refuses, many at once."""

import asyncio
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
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
from sreml_jax.search import batched
from sreml_jax.search.batched import Finder
from sreml_jax.search.embed import embed
from sreml_jax.search.index import Index

search_page = pytest.importorskip('sreml_jax.search.server', exc_type=ImportError)
uploads = search_page.uploads
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


def test_as_many_as_are_asked_for(address, paths, similarity):
    for top in (1, 3, 42):
        matches = found(ask(address, f'/search?top={top}', paths[4].read_bytes()))
        assert [one['number'] for one in matches] == np.argsort(-similarity[4], kind='stable')[:top].tolist()
        others = np.delete(np.arange(42), 4)
        want = others[np.argsort(-similarity[4, others], kind='stable')][:top].tolist()
        assert [one['number'] for one in found(ask(address, f'/search/4?top={top}'))] == want


def test_only_one_class_is_searched(address, paths, similarity):
    rows = np.array([i for i, path in enumerate(paths) if path.parent.name == 'class9'])
    want = rows[np.argsort(-similarity[4, rows], kind='stable')]
    for top in (2, 100):
        answer = ask(address, f'/search?class=class9&top={top}', paths[4].read_bytes())
        assert [one['number'] for one in found(answer)] == want[:top].tolist()
        assert json.loads(answer[1])['verdict'] is None
        np.testing.assert_allclose(
            [one['similarity'] for one in found(answer)], similarity[4, want[:top]], atol=1e-5
        )
    own = int(rows[0])
    others = rows[1:][np.argsort(-similarity[own, rows[1:]], kind='stable')][:TOP]
    assert [one['number'] for one in found(ask(address, f'/search/{own}?class=class9'))] == others.tolist()


@pytest.mark.parametrize(
    'wish', ['top=0', 'top=101', 'top=-1', 'top=x', 'top=', 'top=%D9%A3', 'class=', 'class=none', 'class=%00']
)
def test_a_wish_that_nobody_can_fulfill(wish, address, paths):
    for path, body in ((f'/search?{wish}', paths[0].read_bytes()), (f'/search/3?{wish}', None)):
        assert re.match(r'top must be a|the index has no class', refusal(ask(address, path, body), 400))


def test_the_verdict_leaves_out_the_photograph_itself(folder, embedder, paths, similarity):
    labels = np.array([path.parent.name for path in paths])
    others = similarity[6].copy()
    others[6] = -2
    order = np.argsort(-others, kind='stable')
    between = float(others[order[:2]].mean())
    for threshold, voters, want in (
        (between, 5, {'unknown': False, 'class': labels[order[0]], 'votes': 1, 'voters': 1}),
        (1.5, 5, {'unknown': True, 'class': None, 'votes': 0, 'voters': 0}),
        (None, 1, {'unknown': None, 'class': labels[order[0]], 'votes': 1, 'voters': 1}),
    ):
        finder = Finder(embedder, Index(folder / 'index'), TOP, voters=voters, threshold=threshold)
        with served(finder) as address:
            for answer in (ask(address, '/search', paths[6].read_bytes()), ask(address, '/search/6')):
                assert json.loads(answer[1])['verdict'] == want
            assert found(ask(address, '/search', paths[6].read_bytes()))[0]['number'] == 6  # is still shown


def test_a_picture_in_full(folder, embedder, tmp_path):
    large = Image.effect_noise((900, 600), 90).convert('RGB')
    (tmp_path / 'photos').mkdir()
    large.save(tmp_path / 'photos' / 'large.png')
    embed(embedder, str(tmp_path / 'photos'), tmp_path / 'index')
    with served(Finder(embedder, Index(tmp_path / 'index'), TOP)) as address:
        sizes = {
            query: Image.open(io.BytesIO(ask(address, f'/picture/0{query}')[1])).size
            for query in ('', '?full=1', '?full=x')
        }
        assert ask(address, '/picture/1?full=1')[0] == 404
    assert sizes == {'': (320, 213), '?full=1': (900, 600), '?full=x': (320, 213)}


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
    for content, sentence in (
        (b'no picture', 'not an image'),
        (b'', 'empty file'),
        (paths[0].read_bytes()[:-40], '.*truncated.*'),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 'not an image'),
        (eps.getvalue(), 'not an image'),
    ):
        assert re.fullmatch(sentence, refusal(ask(address, '/search', content), 415))
    assert not (tmp_path / 'started').exists()


def test_what_is_too_large(address, monkeypatch):
    for width, height in ((13_500, 13_500), (1_000_000, 1)):
        assert 'pixels' in refusal(ask(address, '/search', picture(width, height)), 415)
    assert len(found(ask(address, '/search', picture(4000, 10)))) == TOP
    monkeypatch.setattr(uploads, 'MOST_BYTES', 2**20)
    for body in (bytes(2**20 + 1), iter([bytes(2**18)] * 5)):  # of a length that is announced, and in chunks
        assert (
            refusal(ask(address, '/search', body), 413) == 'this file is larger than 1 MiB; make it smaller'
        )


def test_a_jpeg_of_very_many_scans_is_refused_at_once(address):
    file = io.BytesIO()
    Image.new('L', (2_000, 2_000)).save(file, 'JPEG', progressive=True)
    head, scan, rest = file.getvalue().rpartition(b'\xff\xda')
    slow = head + (scan + rest[:-2]) * 3_000 + rest[-2:]  # the last scan again and again
    began = time.monotonic()
    assert 'scans' in refusal(ask(address, '/search', slow), 415)
    assert time.monotonic() - began < 5


def upload(address: str, length: int = 1_000) -> socket.socket:
    """Begins an upload of which only the first byte arrives."""
    host, _, port = urlsplit(address).netloc.partition(':')
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(f'POST /search HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\nx'.encode())
    return connection


def test_stalled_uploads_are_dropped_and_others_answered_meanwhile(address, paths, monkeypatch):
    monkeypatch.setattr(uploads, 'STALL_SECONDS', 1.0)
    stalled = [upload(address) for _ in range(200)]
    assert len(found(ask(address, '/search', paths[0].read_bytes()))) == TOP
    for connection in stalled:
        with connection:
            answer = connection.makefile('rb').read()  # until the server closes it
        assert answer.startswith(b'HTTP/1.1 408 ') and b'took too long' in answer


def test_an_upload_that_drips_for_ever_is_dropped(address, monkeypatch):
    monkeypatch.setattr(uploads, 'UPLOAD_SECONDS', 0.5)
    with upload(address) as connection:
        connection.settimeout(0.05)
        for _ in range(100):
            try:
                if answer := connection.recv(4096):
                    break
            except TimeoutError:
                connection.sendall(b'x')
    assert answer.startswith(b'HTTP/1.1 408 ')


def test_a_connection_without_a_request_is_dropped(folder, embedder, monkeypatch):
    monkeypatch.setattr(search_page, 'SILENT_SECONDS', 0.2)
    with served(Finder(embedder, Index(folder / 'index'), TOP)) as address:
        host, _, port = urlsplit(address).netloc.partition(':')
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b'POST /search HTTP/1.1\r\n')
            assert connection.recv(10) == b''


def test_uploads_hold_a_bounded_number_of_bytes(address, paths, monkeypatch):
    monkeypatch.setattr(uploads, 'MOST_HELD', 100)
    assert 'too many uploads' in refusal(ask(address, '/search', bytes(101)), 503)
    monkeypatch.undo()
    assert len(found(ask(address, '/search', paths[0].read_bytes()))) == TOP


def test_a_client_that_leaves_leaves_no_trace(address, paths, capfd, caplog):
    for _ in range(3):
        upload(address).close()
        with upload(address, 10) as connection:  # is sent, and leaves before the answer
            connection.sendall(bytes(9))
    assert len(found(ask(address, '/search', paths[0].read_bytes()))) == TOP
    assert capfd.readouterr() == ('', '') and not caplog.records


@pytest.mark.parametrize('line', ['POST /search', 'PUT /', 'GET /'])
def test_a_body_that_is_no_http_leaves_no_trace(line, address, paths, capfd, caplog):
    host, _, port = urlsplit(address).netloc.partition(':')
    head = f'{line} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n'
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode() + b'no chunk\r\n')  # is read before the page can answer
        assert connection.recv(12) == b'HTTP/1.1 400'
    assert len(found(ask(address, '/search', paths[0].read_bytes()))) == TOP
    assert capfd.readouterr() == ('', '') and not caplog.records


def test_slow_pictures_of_the_index_do_not_stop_photographs(address, paths, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(batched, '_small', lambda *_: release.wait(60) and (b'', 'image/png'))
    with ThreadPoolExecutor(30) as threads:
        try:
            slow = [threads.submit(ask, address, f'/picture/{i}') for i in range(30)]
            assert len(found(ask(address, '/search', paths[0].read_bytes()))) == TOP
            assert not any(answer.done() for answer in slow)
        finally:
            release.set()
        assert {answer.result()[0] for answer in slow} == {200}


def test_a_question_that_waits_too_long_is_given_up(address, paths, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(batched, 'ANSWER_SECONDS', 0.2)
    monkeypatch.setattr(batched.photographs, 'image', lambda *_: release.wait(60))
    try:
        assert 'busy' in refusal(ask(address, '/search', paths[0].read_bytes()), 503)
    finally:
        release.set()


@pytest.mark.parametrize('origin', ['http://elsewhere.example', 'null', 'http://127.0.0.1:1', 'http://[', ''])
def test_another_page_cannot_search(address, paths, origin):
    assert 'another page' in refusal(ask(address, '/search', paths[0].read_bytes(), Origin=origin), 403)


def test_its_own_page_can_search(address, paths):
    assert len(found(ask(address, '/search', paths[0].read_bytes(), Origin=address))) == TOP


@pytest.mark.parametrize(
    ('path', 'method', 'headers', 'status'),
    [
        ('/', 'GET', {}, 200),
        ('/search/3', 'GET', {}, 200),
        ('/picture/3', 'GET', {}, 200),
        ('/picture/99', 'GET', {}, 404),
        ('/nothing', 'GET', {}, 404),
        ('/picture/3/', 'GET', {}, 404),  # no redirection
        ('/search', 'POST', {}, 415),
        ('/search', 'POST', {'Origin': 'null'}, 403),
        ('/search', 'POST', {'Content-Length': '999999999'}, 413),
        ('/', 'PUT', {}, 405),
        ('/', 'GET', {'Host': 'elsewhere.example'}, 400),
    ],
)
def test_every_answer_has_the_headers_of_safety(address, path, method, headers, status):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    connection.close()
    assert answer.status == status
    assert answer.headers.get_all('X-Content-Type-Options') == ['nosniff']
    (policy,) = answer.headers.get_all('Content-Security-Policy')
    assert policy.startswith("default-src 'none'; ") and "frame-ancestors 'none'" in policy


def test_an_error_of_the_program_has_the_headers_too(folder, embedder, monkeypatch):
    finder = Finder(embedder, Index(folder / 'index'), TOP)
    monkeypatch.setattr(finder, 'items', None)
    messages = []

    async def send(message):
        messages.append(message)

    scope = {'type': 'http', 'method': 'GET', 'path': '/search/3', 'headers': [(b'host', b'127.0.0.1')]}
    with pytest.raises(TypeError):
        asyncio.run(search_page.app(finder)(scope | {'query_string': b'', 'root_path': ''}, None, send))
    assert messages[0]['status'] == 500
    assert (b'x-content-type-options', b'nosniff') in messages[0]['headers']


def test_names_with_control_characters_are_escaped(folder, embedder, tmp_path):
    path = tmp_path / 'a\nclass' / 'red\x1b[31m.png'
    path.parent.mkdir()
    shutil.copy(next((folder / 'photos').rglob('*.png')), path)
    embed(embedder, str(tmp_path), tmp_path.with_name('odd-index'))
    with served(Finder(embedder, Index(tmp_path.with_name('odd-index')), TOP)) as address:
        (one,) = found(ask(address, '/search', path.read_bytes()))
    assert (one['name'], one['class']) == (r'a\nclass/red\x1b[31m.png', r'a\nclass')


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
    examples = json.loads(re.search(rb'EXAMPLES = (\[.*?\])', content)[1])
    assert (examples[0], examples[-1], len(examples)) == (0, 41, 12) and examples == sorted(set(examples))
    assert re.findall(rb'<option value="(.*?)">', content) == [
        b'class%d' % i for i in (10, 11, 12, 13, 14, 15, 8, 9)
    ]
    assert re.findall(rb'<option( selected)?>(\d+)', content)[0] == (b' selected', b'5')
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
    headline, *others, end = errors.splitlines()
    assert output == '' and headline.startswith('CPU') and not others and end == 'stopped', errors
