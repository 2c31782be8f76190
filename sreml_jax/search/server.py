"""--mode=serve: a page to search an index with, and the small server behind it."""

import asyncio
import ipaddress
import signal
import socket
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from sreml_jax.drawing import template
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable
from sreml_jax.search import uploads
from sreml_jax.search.batched import MOST, Answer, Finder
from sreml_jax.search.guard import Guard

SILENT_SECONDS = 10.0  # of a connection before its request
_SIDE, _FULL = 320, 2048  # pixels of a picture on the page, and of one alone, at most
_TOPS = (10, 20, 50, 100)  # images to find that the page offers
_EXAMPLES = 12  # images of the index on the page before the first query
_CLASSES = 2000  # names that the page offers, at most
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOCAL = ('127.0.0.1', 'localhost', '[')  # the last is [::1]: starlette cuts a host at its first colon


def app(finder: Finder, hosts: Sequence[str] = ('*',)) -> Guard:
    """Returns the page and what it asks for.

        GET  /                 the page
        POST /search           the bytes of a photograph -> the images most like it
        GET  /search/NUMBER    -> the images most like that one of the index
        GET  /picture/NUMBER   that image of the index, made small; ?full=1: up to _FULL pixels

    Both searches take ?top=NUMBER and ?class=NAME. An answer is JSON, {"found": [{"number", "similarity",
    "name", "class"}, ...], "verdict": {"unknown", "class", "votes", "voters"} or null}, a refusal {"error": a
    sentence}. Images of the index are read by their number alone.

    Args:
      finder: searches.
      hosts: names that a browser may call this server by; '*' is any.
    """
    received = uploads.Uploads()

    async def page(_: Request) -> Response:
        about = finder.index.about
        values = {'folder': printable(finder.index.folder.name), 'images': len(finder.index)}
        values |= {'trained': about['checkpoint']['workdir'] != '', 'step': about['checkpoint']['step']}
        values |= {'most_bytes': uploads.MOST_BYTES, 'tops': sorted({finder.top, *_TOPS}), 'top': finder.top}
        values |= {'examples': finder.examples(_EXAMPLES), 'threshold': finder.threshold}
        values |= {'classes': finder.classes if len(finder.classes) <= _CLASSES else []}
        return HTMLResponse(template.render('search.html', **values))

    async def like_photograph(request: Request) -> Response:
        wanted = asked(request)
        async with received.body(request) as photograph:
            return _json(await finder.like_photograph(photograph, *wanted))

    async def like_item(request: Request) -> Response:
        number = numbered(request)
        (item,) = await finder.items([number])
        return _json(await finder.like_item(number, *asked(request)), name=_name(item.path))

    async def picture(request: Request) -> Response:
        number = numbered(request)
        try:
            side = _FULL if request.query_params.get('full') == '1' else _SIDE
            content, media_type = await finder.picture(number, side)
        except UserError:
            raise HTTPException(404, 'the file of this image is gone, or is no picture any more') from None
        return Response(content, media_type=media_type, headers={'Cache-Control': 'private, max-age=3600'})

    def asked(request: Request) -> tuple[int | None, str | None]:
        top, label = request.query_params.get('top'), request.query_params.get('class')
        most = max(MOST, finder.top)
        if top is not None and not (
            top.isascii() and top.isdigit() and len(top) < 9 and 0 < int(top) <= most
        ):
            raise HTTPException(400, f'top must be a whole number from 1 to {most}')
        if label is not None and label not in finder.classes:
            raise HTTPException(400, f'the index has no class {printable(label, 80)!r}')
        return None if top is None else int(top), label

    def numbered(request: Request) -> int:
        text, images = request.path_params['number'], len(finder.index)
        # Nothing but a row of the index leads to a file.
        if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) < images):
            raise HTTPException(404, f'the index holds images 0 to {images - 1}; nothing else can be read')
        return int(text)

    pages = Starlette(
        routes=[
            Route('/', page),
            Route('/search', like_photograph, methods=['POST']),
            Route('/search/{number}', like_item),
            Route('/picture/{number}', picture),
        ],
        exception_handlers={
            HTTPException: _refusal,
            UserError: _mistake,
            TimeoutError: _busy,
            ClientDisconnect: _gone,
        },
        # Otherwise another page could reach this one under a name of its own.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
    )
    pages.router.redirect_slashes = False  # to an address that the client makes up
    return Guard(pages)


def settings(served: Guard, **more: Any) -> uvicorn.Config:
    """Returns how uvicorn serves the page."""
    return uvicorn.Config(
        served,
        log_level='error',
        log_config=None,  # uvicorn's own would close every other log handler
        loop='asyncio',
        http=_Protocol,
        ws='none',
        lifespan='off',
        timeout_graceful_shutdown=5,
        server_header=False,
        **more,
    )


def serve(finder: Finder, host: str, port: int) -> None:
    """Serves the page until a signal comes.

    Args:
      finder: searches.
      host: address to listen at.
      port: to listen at; 0 takes one that is free.

    Raises:
      UserError: it cannot listen there.
    """
    listening = _listen(host, port)
    finder.warm_up()
    local = _is_local(host)
    bound = listening.getsockname()[1]
    shown = f'[{host}]' if ':' in host else host
    print(f'http://{shown}:{bound} searches {len(finder.index):,} images; Ctrl-C ends it', flush=True)
    if not local:
        print('everyone who reaches this address can search and see the images: no password', flush=True)
    # uvicorn passes a signal on from within its event loop, which must end first.
    received: list[int] = []
    before = {n: signal.signal(n, lambda number, _: received.append(number)) for n in _SIGNALS}
    uvicorn.Server(settings(app(finder, (*_LOCAL, host) if local else ('*',)))).run([listening])
    for number, handler in before.items():
        signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


def _is_local(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


class _Protocol(H11Protocol):
    """uvicorn's protocol, which also drops connections that never send a request, or break one off."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(SILENT_SECONDS, self._drop_if_silent)

    def send_400_response(self, msg: str) -> None:
        # The rest of a request is no HTTP: whoever reads its body sees the client leave, and answers nobody.
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        super().send_400_response(msg)

    def _drop_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def _listen(host: str, port: int) -> socket.socket:
    """Returns a socket that browsers can connect to already; they wait until they are served."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = str(getattr(error, 'strerror', error)).partition(' (while')[0]
        raise UserError(
            f'cannot listen at {printable(host)}, port {port} ({reason}); take another --port or --host'
        ) from None


def _json(answer: Answer, **more: str) -> Response:
    entries = [
        {
            'number': match.row,
            'similarity': match.similarity,
            'name': _name(match.item.path),
            'class': match.item.label and printable(match.item.label),
        }
        for match in answer.found
    ]
    verdict = answer.verdict and {
        'unknown': answer.verdict.unknown,
        'class': answer.verdict.label and printable(answer.verdict.label),
        'votes': answer.verdict.votes,
        'voters': answer.verdict.voters,
    }
    return JSONResponse({'found': entries, 'verdict': verdict, **more})


def _name(path: str) -> str:
    """Returns the end of a path, its folder and the file: the page does not show where the images lie."""
    return printable('/'.join(Path(path).parts[-2:]))


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({'error': error.detail}, error.status_code, error.headers)


async def _mistake(_: Request, error: Exception) -> Response:
    return JSONResponse({'error': str(error)}, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)


async def _busy(_: Request, error: Exception) -> Response:
    return JSONResponse({'error': 'the server is busy; try again'}, HTTPStatus.SERVICE_UNAVAILABLE)


async def _gone(_: Request, error: Exception) -> Response:
    return Response(status_code=HTTPStatus.BAD_REQUEST)  # nobody reads it
