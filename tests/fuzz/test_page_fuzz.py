"""Strange requests to the search page are refused or answered: it never fails, and never stops answering.

The long form: SREML_FUZZ_CASES=5000 python -m pytest -n0 -s tests/fuzz/test_page_fuzz.py
"""

import io
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from support.looking import begun, files, served
from support.mutations import cases, mutated

from sreml_jax.embedder import Embedder
from sreml_jax.search.embed import embed
from sreml_jax.search.index import Index

server = pytest.importorskip('sreml_jax.search.server', exc_type=ImportError)
CASES = 300
METHODS = ('GET', 'GET', 'HEAD', 'POST', 'PUT', 'OPTIONS', 'get', 'X' * 99, '')
PATHS = (
    '/',
    '/search',
    '/search/3',
    '/picture/3',
    '/picture/-1',
    '/search/%00',
    '/picture/..%2F..',
    '//',
    '*',
)
PATHS += (
    '/picture/' + '9' * 400,
    '/search/1?x=%ff',
    '/' + 'a' * 20_000,
    'http://elsewhere.example/',
    '/\x1b',
)
HEADERS = ('Origin: null', 'Origin: http://[', 'Origin: http://{host}', 'Host: other', 'Content-Length: 7')
HEADERS += (
    'Content-Length: -1',
    'Content-Length: 99999999999999999999',
    'Transfer-Encoding: chunked',
    'Range: x',
)
HEADERS += (
    'Expect: 100-continue',
    'Upgrade: websocket',
    'Connection: close',
    ': x',
    'X-\xff: \xff',
    'a' * 9_000,
)
REFUSED = {400, 403, 404, 405, 408, 413, 415, 503}


@pytest.fixture(scope='module')
def place(tmp_path_factory) -> Path:
    """Photographs, and their index by a run that has only begun."""
    folder = tmp_path_factory.mktemp('fuzz')
    files(folder / 'photos')
    embed(Embedder(begun(folder / 'run')), str(folder / 'photos'), folder / 'index')
    return folder


def pictures(path: Path) -> list[bytes]:
    """Small pictures of many formats."""
    shown = []
    for kind, options in (
        ('PNG', {}),
        ('PNG', {'save_all': True, 'append_images': [Image.new('RGB', (16, 16))]}),
        ('JPEG', {}),
        ('JPEG', {'progressive': True}),
        ('WEBP', {}),
        ('GIF', {}),
        ('BMP', {}),
        ('TIFF', {'compression': 'tiff_lzw'}),
        ('PPM', {}),
    ):
        file = io.BytesIO()
        with Image.open(path) as picture:
            picture.save(file, kind, **options)
        shown.append(file.getvalue())
    return shown


def request(random: np.random.Generator, host: str, bodies: list[bytes]) -> bytes:
    """Returns the bytes of a request: a damaged picture, strange headers, or a damaged request."""

    def one(choices):
        return choices[random.integers(len(choices))]

    body = mutated(one(bodies), random)
    if random.integers(2):
        return f'POST /search HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n'.encode() + body
    headers = [f'Host: {host}'] if random.integers(8) else []
    headers += [one(HEADERS).format(host=host) for _ in range(random.integers(3))]
    head = f'{one(METHODS)} {one(PATHS)} HTTP/1.1\r\n' + '\r\n'.join(headers) + '\r\n\r\n'
    content = head.encode('latin-1') + (body if random.integers(2) else b'')
    return mutated(content, random) if random.integers(2) else content


def answer(host: str, content: bytes) -> tuple[int, bytes]:
    """Sends these bytes and no more; returns the status of the answer and its head, 0 if there is none."""
    name, _, port = host.partition(':')
    with socket.create_connection((name, int(port)), timeout=60) as connection:
        try:
            connection.sendall(content)
            received = b''
            while b'\r\n\r\n' not in received and (part := connection.recv(4096)):
                received += part
                received = received.removeprefix(b'HTTP/1.1 100 Continue\r\n\r\n')
        except ConnectionError:
            return 0, b''
    head = received.partition(b'\r\n\r\n')[0]
    return (int(head.split()[1]) if head else 0), head


def test_strange_requests(place, monkeypatch, capfd, caplog):
    from sreml_jax.search.batched import Finder

    monkeypatch.setattr(server, 'SILENT_SECONDS', 0.5)
    monkeypatch.setattr('sreml_jax.search.uploads.STALL_SECONDS', 0.5)
    photograph = sorted((place / 'photos').rglob('*.png'))[0]
    bodies = pictures(photograph)
    with served(Finder(Embedder(place / 'run'), Index(place / 'index'), 3)) as address:
        host = urlsplit(address).netloc
        good = photograph.read_bytes()
        head = f'POST /search HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(good)}\r\n\r\n'

        def ask(case: int) -> str:
            if case % 50 == 0:
                assert answer(host, head.encode() + good)[0] == 200, case
            status, told = answer(host, request(np.random.default_rng(case), host, bodies))
            # What is no HTTP does not reach the page; uvicorn itself refuses it.
            assert b'nosniff' in told or status in (0, 400), (case, told)
            assert status in {0, 200, *REFUSED}, (case, told)
            return 'accepted' if status == 200 else 'refused' if status else 'no request'

        capfd.readouterr()
        with ThreadPoolExecutor(16) as threads:
            counts = Counter(threads.map(ask, range(cases(CASES))))
    assert capfd.readouterr() == ('', '')
    assert not [record for record in caplog.records if record.exc_info]
    assert counts.total() == cases(CASES) and counts['accepted'] and counts['refused']
    print(f'{cases(CASES)} requests: {dict(sorted(counts.items()))}')
