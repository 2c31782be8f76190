"""Downloads from a server on this machine that drops the connection, sends a wrong byte, or has no file."""

import hashlib
import http.server
import socket
import tarfile
import threading
import time

import numpy as np
import pytest
from support import annotations

from sreml_jax.configs import default
from sreml_jax.data.sources import cub, download
from sreml_jax.runtime.errors import UserError

ARCHIVE = np.random.default_rng(0).bytes(300_000)


class Server(http.server.ThreadingHTTPServer):
    """Answers GET with `content`; the first `drops` answers that are read to their middle end there."""

    content = ARCHIVE
    drops = 0
    served = 0

    class RequestHandlerClass(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path != '/birds.tgz':
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header('Content-Length', str(len(self.server.content)))
            self.end_headers()
            half = len(self.server.content) // 2
            try:
                self.wfile.write(self.server.content[:half])
                if self.headers['User-Agent'].startswith('python-requests'):  # not the first, short look
                    self.server.served += 1
                    if self.server.served <= self.server.drops:
                        self.connection.shutdown(socket.SHUT_RDWR)
                        return
                self.wfile.write(self.server.content[half:])
            except ConnectionError:
                pass

        def log_message(self, *_):
            pass

    def __init__(self):
        super().__init__(('127.0.0.1', 0), self.RequestHandlerClass)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv('no_proxy', '127.0.0.1')


@pytest.fixture
def server(monkeypatch):
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}).start()
        offer(monkeypatch, server.server_port, 'birds.tgz', ARCHIVE)
        yield server
        server.shutdown()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def offer(monkeypatch, port, path, content):
    """Makes CUB's address one of this machine."""
    url = f'http://127.0.0.1:{port}/{path}'
    sha256 = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(
        download.DOWNLOADS, 'cub', download.Download(url, 'CUB_200_2011.tgz', len(content), sha256)
    )


def test_archive_arrives_whole_and_alone(server, tmp_path):
    download.fetch('cub', tmp_path)
    assert (tmp_path / 'CUB_200_2011.tgz').read_bytes() == ARCHIVE
    assert names(tmp_path) == ['CUB_200_2011.tgz']


def test_archive_that_is_there_is_not_fetched(server, tmp_path):
    (tmp_path / 'CUB_200_2011.tgz').write_bytes(b'mine')
    download.fetch('cub', tmp_path)
    assert (tmp_path / 'CUB_200_2011.tgz').read_bytes() == b'mine'
    assert server.served == 0


def test_dropped_connection_starts_again(server, tmp_path):
    server.drops = 2
    download.fetch('cub', tmp_path)
    assert (tmp_path / 'CUB_200_2011.tgz').read_bytes() == ARCHIVE
    assert server.served == 3


def test_what_a_killed_download_left_is_removed(server, tmp_path):
    left = tmp_path / '.CUB_200_2011.tgz.download'
    left.mkdir()
    (left / 'half').write_bytes(ARCHIVE[:1000])
    download.fetch('cub', tmp_path)
    assert names(tmp_path) == ['CUB_200_2011.tgz']


def refused(folder, reason):
    """Asserts that the download fails for this reason, says all that it should, and leaves nothing."""
    url = download.DOWNLOADS['cub'].url.replace('?', r'\?')
    with pytest.raises(
        UserError,
        match=rf'CUB_200_2011\.tgz from {url} \(.*{reason}.*\): .* by hand and put it into {folder}\.',
    ):
        download.fetch('cub', folder)
    assert names(folder) == []


def test_connection_that_always_drops_is_reported(server, tmp_path):
    server.drops = 100
    refused(tmp_path, 'Connection broken')
    assert server.served == download.ATTEMPTS


def test_wrong_byte_is_reported(server, tmp_path):
    server.content = ARCHIVE[:-1] + bytes([ARCHIVE[-1] ^ 1])
    refused(tmp_path, 'checksum is wrong')


def test_wrong_size_is_reported_before_anything_is_read(server, tmp_path):
    server.content = b'<html>Please log in</html>'
    refused(tmp_path, '26 bytes there instead of 300,000')
    assert server.served == 0


def test_missing_file_is_reported(server, tmp_path, monkeypatch):
    offer(monkeypatch, server.server_port, 'fish.tgz', ARCHIVE)
    refused(tmp_path, 'HTTP Error 404: Not Found')
    with pytest.raises(UserError, match='404'):
        download.fetch('cub', tmp_path / 'data')
    assert not (tmp_path / 'data').exists()


def test_server_out_of_reach_is_reported_at_once(tmp_path, monkeypatch):
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))  # and does not listen
        offer(monkeypatch, unused.getsockname()[1], 'birds.tgz', ARCHIVE)
        start = time.monotonic()
        refused(tmp_path, 'Connection refused')
        assert time.monotonic() - start < 10


def test_from_nothing_to_a_dataset(server, tmp_path, monkeypatch):
    annotations.make_cub(tmp_path / 'origin', classes=2, per_class=3)
    archive = tmp_path / 'origin.tgz'
    with tarfile.open(archive, 'w:gz') as tar:
        tar.add(tmp_path / 'origin' / 'CUB_200_2011', 'CUB_200_2011')
    server.content = archive.read_bytes()
    offer(monkeypatch, server.server_port, 'birds.tgz', server.content)
    config = default.get_config()
    config.prepared_dir = str(tmp_path / 'prepared')
    with pytest.raises(UserError, match=r'--config\.download=True'):
        cub.Cub(tmp_path / 'data', config)
    config.download = True
    for _ in range(2):  # the second time, all is there
        builder = cub.Cub(tmp_path / 'data', config)
        builder.prepare()
        assert {s: len(x) for s, x in builder.info.metadata['labels'].items()} == {'train': 6, 'test': 6}
    assert server.served == 1
