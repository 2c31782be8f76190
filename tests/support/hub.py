"""A Hugging Face hub on this machine: it takes commits of small files and gives them back."""

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

COMMIT = 'c' * 40


class Hub(http.server.ThreadingHTTPServer):
    """Answers what the library asks for when it makes a repository, commits to it and downloads it.

    Attributes:
      files: repository -> name -> content.
      seen: 'METHOD path' of each request.
      refuse: the status of every answer to a request that changes something; 0 answers it.
    """

    class RequestHandlerClass(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self._noted()
            if path.startswith('/api/models/'):
                repository, _, rest = path.removeprefix('/api/models/').partition(
                    '/revision/' if '/revision/' in path else '/tree/'
                )
                files = self.server.files.get(repository)
                if files is None:
                    return self._answer(404, b'', {'X-Error-Code': 'RepoNotFound'})
                if '/revision/' in path:
                    return self._json({'id': repository, 'sha': COMMIT, 'siblings': []})
                return self._json(
                    [
                        {'type': 'file', 'path': name, 'size': len(content), 'oid': _oid(content)}
                        for name, content in files.items()
                    ]
                )
            repository, found, rest = path.lstrip('/').partition('/resolve/')
            content = self.server.files.get(repository, {}).get(rest.partition('/')[2])
            if not found or content is None:
                return self._answer(404, b'', {'X-Error-Code': 'EntryNotFound'})
            return self._answer(200, content, {'ETag': f'"{_oid(content)}"', 'X-Repo-Commit': COMMIT})

        do_HEAD = do_GET

        def do_POST(self) -> None:
            path = self._noted()
            body = self.rfile.read(int(self.headers['Content-Length']))
            if self.server.refuse:
                return self._answer(self.server.refuse, b'', {})
            if path == '/api/repos/create':
                asked = json.loads(body)
                name = f'{asked["organization"]}/{asked["name"]}'
                self.server.files.setdefault(name, {})
                return self._json({'url': f'{self.server.address}/{name}', 'name': name, 'id': name})
            if path == '/api/validate-yaml':
                return self._json({'errors': [], 'warnings': []})
            if '/preupload/' in path:
                names = [file['path'] for file in json.loads(body)['files']]
                modes = [{'path': n, 'uploadMode': 'regular', 'shouldIgnore': False} for n in names]
                return self._json({'files': modes})
            repository = path.removeprefix('/api/models/').partition('/commit/')[0]
            for line in map(json.loads, body.splitlines()):
                if line['key'] == 'file':
                    content = base64.b64decode(line['value']['content'])
                    self.server.files[repository][line['value']['path']] = content
            return self._json({'commitUrl': f'{self.server.address}/{repository}', 'commitOid': COMMIT})

        def _noted(self) -> str:
            path = unquote(urlsplit(self.path).path)
            self.server.seen.append(f'{self.command} {path}')
            return path

        def _json(self, value: object) -> None:
            self._answer(200, json.dumps(value).encode(), {'Content-Type': 'application/json'})

        def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, 'Content-Length': str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != 'HEAD':
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.seen: list[str] = []
        self.refuse = 0
        super().__init__(('127.0.0.1', 0), self.RequestHandlerClass)

    @property
    def address(self) -> str:
        return f'http://127.0.0.1:{self.server_port}'


def _oid(content: bytes) -> str:
    """The name of a file's content in git."""
    return hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()


@contextmanager
def hub() -> Iterator[Hub]:
    """Yields a running hub."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
