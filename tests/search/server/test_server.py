"""The server of the search page: its pictures, its headers, its errors, its beginning and end."""

import asyncio
import http.client
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from support.asking import TOP, ask, found, refusal
from support.looking import served
from support.paths import ROOT

from sreml_jax.runtime.errors import UserError
from sreml_jax.search import batched
from sreml_jax.search.batched import Finder
from sreml_jax.search.embed import embed
from sreml_jax.search.index import Index

search_page = pytest.importorskip('sreml_jax.search.server', exc_type=ImportError)


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


@pytest.mark.parametrize(
    ('host', 'local'),
    [
        *((host, True) for host in ('127.0.0.1', '127.0.0.2', '::1', 'localhost')),
        *((host, False) for host in ('0.0.0.0', '::', '', '10.0.0.1', 'photos.example')),
    ],
)
def test_which_addresses_only_this_machine_reaches(host, local):
    assert search_page._is_local(host) == local
