"""--mode=serve: a page to search an index with, and the little server behind it."""

import signal
import socket
import warnings
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sreml_jax.drawing import template
from sreml_jax.runtime.errors import UserError
from sreml_jax.search.batched import Finder
from sreml_jax.search.exact import Match

MOST_BYTES = 20 * 2**20  # of a photograph
_SIDE = 320  # pixels at most of a picture on the page
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOCAL = ('127.0.0.1', 'localhost')
_HEADERS = {
    'Content-Security-Policy': (
        "default-src 'none'; img-src 'self' blob: data:; connect-src 'self'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
}


def app(finder: Finder, hosts: Sequence[str] = ('*',)) -> Starlette:
    """Returns the page and what it asks for.

        GET  /                 the page
        POST /search           the bytes of a photograph -> the images most like it
        GET  /search/NUMBER    -> the images most like that one of the index
        GET  /picture/NUMBER   that image of the index, made small

    An answer to a search is JSON, {"found": [{"number", "similarity", "name", "class"}, ...]}, a refusal
    {"error": a sentence}. Images of the index are read by their number alone.

    Args:
      finder: searches.
      hosts: names that a browser may call this server by; '*' is any.
    """

    async def page(_: Request) -> Response:
        about = finder.index.about
        values = {'folder': finder.index.folder.name, 'images': len(finder.index), 'most_bytes': MOST_BYTES}
        text = template.render('search.html', step=about['checkpoint']['step'], **values)
        return HTMLResponse(text, headers=_HEADERS)

    async def like_photograph(request: Request) -> Response:
        return _json(await finder.like_photograph(await _body(request)))

    async def like_item(request: Request) -> Response:
        number = numbered(request)
        (item,) = await finder.items([number])
        return _json(await finder.like_item(number), name=_name(item.path))

    async def picture(request: Request) -> Response:
        number = numbered(request)
        try:
            content, media_type = await finder.picture(number, _SIDE)
        except UserError:
            raise HTTPException(404, 'the file of this image is gone, or is no picture any more') from None
        return Response(content, media_type=media_type, headers={'Cache-Control': 'private, max-age=3600'})

    def numbered(request: Request) -> int:
        text, images = request.path_params['number'], len(finder.index)
        # Nothing but a row of the index leads to a file.
        if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) < images):
            raise HTTPException(
                404, f'the index holds the images 0 to {images - 1}, and no other can be read'
            )
        return int(text)

    return Starlette(
        routes=[
            Route('/', page),
            Route('/search', like_photograph, methods=['POST']),
            Route('/search/{number}', like_item),
            Route('/picture/{number}', picture),
        ],
        exception_handlers={HTTPException: _refusal, UserError: _mistake},
        # Else a page elsewhere could reach this one under a name of its own.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
    )


def serve(finder: Finder, host: str, port: int) -> None:
    """Serves the page until a signal comes.

    Args:
      finder: searches.
      host: address to listen at.
      port: likewise; 0 takes one that is free.

    Raises:
      UserError: it cannot listen there.
    """
    listening = _listen(host, port)
    warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # `finder` sets a limit of its own
    finder.warm_up()
    local = host in _LOCAL
    settings = uvicorn.Config(
        app(finder, _LOCAL if local else ('*',)),
        log_level='error',
        loop='asyncio',
        http='h11',
        ws='none',
        lifespan='off',
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    bound = listening.getsockname()[1]
    shown = f'[{host}]' if ':' in host else host
    print(f'http://{shown}:{bound} searches {len(finder.index):,} images; Ctrl-C ends it', flush=True)
    if not local:
        print('whoever reaches this address can search and see the images: there is no password', flush=True)
    # uvicorn passes a signal on from within its event loop, which must end first.
    received: list[int] = []
    before = {n: signal.signal(n, lambda number, _: received.append(number)) for n in _SIGNALS}
    uvicorn.Server(settings).run([listening])
    for number, handler in before.items():
        signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


def _listen(host: str, port: int) -> socket.socket:
    """Returns a socket at which browsers may call already: they wait until they are served."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror).partition(' (while')[0]
        raise UserError(
            f'cannot listen at {host}, port {port} ({reason}); take another --port or --host'
        ) from None


async def _body(request: Request) -> bytes:
    """Returns the body of a request; refuses one that is too long as soon as that is seen."""
    too_long = HTTPException(413, f'this file is larger than {MOST_BYTES // 2**20} MiB; make it smaller')
    announced = request.headers.get('content-length', '')
    if announced.isdecimal() and int(announced) > MOST_BYTES:
        raise too_long
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise too_long
    return bytes(body)


def _json(found: list[Match], **more: str) -> Response:
    entries = [
        {
            'number': match.row,
            'similarity': match.similarity,
            'name': _name(match.item.path),
            'class': match.item.label,
        }
        for match in found
    ]
    return JSONResponse({'found': entries, **more})


def _name(path: str) -> str:
    """Returns the end of a path: its folder and the file; where the images lie is nobody's business."""
    return '/'.join(Path(path).parts[-2:])


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({'error': error.detail}, error.status_code)


async def _mistake(_: Request, error: Exception) -> Response:
    return JSONResponse({'error': str(error)}, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
