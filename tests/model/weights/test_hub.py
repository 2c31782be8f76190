"""ImageNet weights from a hub on this machine: fetched once, checked, and every fault said."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.paths import ROOT

from sreml_jax.model.resnet import BACKBONES
from sreml_jax.model.weights import hub

CONTENT = bytes(range(256)) * 500
REPOSITORY, REVISION, _ = hub.PUBLISHED['resnet18']
PATH = f'/{REPOSITORY}/resolve/{REVISION}/model.safetensors'

# The library reads its environment when it is imported, and waits between attempts.
FETCH = """
import sys, time
from sreml_jax.runtime.errors import UserError
from sreml_jax.model.weights import hub
time.sleep = lambda seconds: None
hub.PUBLISHED['resnet18'] = hub.PUBLISHED['resnet18']._replace(sha256=sys.argv[1])
try:
    print(hub.fetch('resnet18'))
except UserError as error:
    sys.exit(f'error: {error}')
"""


class Hub(http.server.ThreadingHTTPServer):
    """Answers for one file as the Hugging Face hub does; with `breaks`, never sends its second half."""

    content = CONTENT
    path = PATH
    breaks = False

    class RequestHandlerClass(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            if '/resolve/' in self.path:  # the library asks for other things too
                self.server.seen.append(f'{self.command} {self.path}')
            if self.path != self.server.path:
                self.send_response(404)
                self.send_header('X-Error-Code', 'RevisionNotFound')
                self.send_header('Content-Length', '0')
                self.end_headers()
                return False
            self.send_response(200)
            self.send_header('ETag', f'"{hashlib.sha256(self.server.content).hexdigest()}"')
            self.send_header('X-Repo-Commit', REVISION)
            self.send_header('Content-Length', str(len(self.server.content)))
            self.end_headers()
            return True

        def do_GET(self):
            if self.do_HEAD():
                sent = len(self.server.content) // (2 if self.server.breaks else 1)
                self.wfile.write(self.server.content[:sent])
                self.close_connection = True

        def log_message(self, *_):
            pass

    def __init__(self):
        self.seen = []
        super().__init__(('127.0.0.1', 0), self.RequestHandlerClass)


@pytest.fixture
def server():
    with Hub() as server:
        threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}).start()
        yield server
        server.shutdown()


def fetch(folder, port, offline=False):
    """Runs `hub.fetch` with its cache in `folder`; returns (path or None, complaint)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith('HF_')}
    environment |= {
        'HF_HOME': str(folder),
        'HF_ENDPOINT': f'http://127.0.0.1:{port}',
        'HF_HUB_OFFLINE': str(int(offline)),
        'no_proxy': '127.0.0.1',
    }
    arguments = [sys.executable, '-c', FETCH, hashlib.sha256(CONTENT).hexdigest()]
    done = subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    complaint = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert done.returncode == len(complaint), done.stderr
    assert 'Traceback' not in done.stderr
    return (None, complaint[0]) if complaint else (Path(done.stdout.strip()), '')


def says_where_to_get_it(complaint, port):
    url = f'http://127.0.0.1:{port}{PATH}'
    return f'fetch {url} on another machine, put it on this one and pass --config.weights=PATH' in complaint


def test_every_backbone_is_pinned():
    assert hub.PUBLISHED.keys() == BACKBONES.keys()
    for model_type, published in hub.PUBLISHED.items():
        assert published.repository == f'timm/{model_type}.tv_in1k'
        assert (len(published.revision), len(published.sha256)) == (40, 64)
        int(published.revision + published.sha256, 16)


def test_fetched_once_at_the_pinned_revision_then_from_the_cache(server, tmp_path):
    path, _ = fetch(tmp_path, server.server_port)
    assert path.read_bytes() == CONTENT
    assert tmp_path in path.parents
    assert server.seen[-1] == f'GET {PATH}'
    requests = len(server.seen)
    for offline in (False, True):
        assert fetch(tmp_path, server.server_port, offline)[0] == path
    assert len(server.seen) == requests


def test_no_server(tmp_path):
    with Hub() as closed:
        port = closed.server_port
    path, complaint = fetch(tmp_path, port)
    assert path is None
    assert 'the ImageNet weights of resnet18 cannot be fetched' in complaint
    assert says_where_to_get_it(complaint, port)


def test_offline_and_not_in_the_cache(server, tmp_path):
    path, complaint = fetch(tmp_path, server.server_port, offline=True)
    assert path is None
    assert 'HF_HUB_OFFLINE' in complaint
    assert says_where_to_get_it(complaint, server.server_port)
    assert not server.seen


def test_no_such_revision(server, tmp_path):
    server.path = PATH.replace(REVISION, 'main')
    path, complaint = fetch(tmp_path, server.server_port)
    assert path is None
    assert '404' in complaint
    assert says_where_to_get_it(complaint, server.server_port)


def test_a_transfer_that_breaks_off_leaves_no_file_of_weights(server, tmp_path):
    server.breaks = True
    path, complaint = fetch(tmp_path, server.server_port)
    assert path is None
    assert says_where_to_get_it(complaint, server.server_port)
    assert not list(tmp_path.rglob('model.safetensors'))
    server.breaks = False
    assert fetch(tmp_path, server.server_port)[0].read_bytes() == CONTENT


def test_other_bytes_than_were_published(server, tmp_path):
    server.content = CONTENT[::-1]
    path, complaint = fetch(tmp_path, server.server_port)
    assert path is None
    assert (
        'model.safetensors is not the file of ImageNet weights that was published for resnet18' in complaint
    )
    assert hashlib.sha256(CONTENT[::-1]).hexdigest() in complaint
    assert says_where_to_get_it(complaint, server.server_port)
