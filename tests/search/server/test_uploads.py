"""What is sent to the search page: pictures, what is none, and too much of it."""

import io
import os
import re
import socket
import time
from urllib.parse import urlsplit

import pytest
from PIL import Image
from support.asking import TOP, ask, found, refusal
from support.looking import served

from sreml_jax.search.batched import Finder
from sreml_jax.search.index import Index

search_page = pytest.importorskip('sreml_jax.search.server', exc_type=ImportError)
uploads = pytest.importorskip('sreml_jax.search.uploads', exc_type=ImportError)


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


def test_what_an_upload_held_is_free_again_and_uploads_add_up(address, paths, monkeypatch):
    photograph = paths[0].read_bytes()
    monkeypatch.setattr(uploads, 'MOST_HELD', len(photograph))
    for _ in range(3):
        assert len(found(ask(address, '/search', photograph))) == TOP
        refusal(ask(address, '/search', photograph + b'x'), 503)
    with upload(address):  # its one byte is held
        for _ in range(100):
            if ask(address, '/search', photograph)[0] == 503:
                break
            time.sleep(0.02)
        else:
            pytest.fail('two uploads do not add up')


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
