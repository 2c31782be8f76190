"""The search page and what it asks for: the answers to its requests."""

from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from sreml_jax.drawing import template
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable
from sreml_jax.search import uploads
from sreml_jax.search.batched import MOST, Answer, Finder
from sreml_jax.search.guard import Guard

_SIDE, _FULL = 320, 2048  # pixels of a picture on the page, and of one alone, at most
_TOPS = (10, 20, 50, 100)  # images to find that the page offers
_EXAMPLES = 12  # images of the index on the page before the first query
_CLASSES = 2000  # names that the page offers, at most


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
    answers = _Answers(finder)
    pages = Starlette(
        routes=[
            Route('/', answers.page),
            Route('/search', answers.like_photograph, methods=['POST']),
            Route('/search/{number}', answers.like_item),
            Route('/picture/{number}', answers.picture),
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


class _Answers:
    """Answers the requests; see `app`."""

    def __init__(self, finder: Finder):
        self._finder = finder
        self._received = uploads.Uploads()

    async def page(self, _: Request) -> Response:
        finder, about = self._finder, self._finder.index.about
        values = {'folder': printable(finder.index.folder.name), 'images': len(finder.index)}
        values |= {'trained': about['checkpoint']['workdir'] != '', 'step': about['checkpoint']['step']}
        values |= {'most_bytes': uploads.MOST_BYTES, 'tops': sorted({finder.top, *_TOPS}), 'top': finder.top}
        values |= {'examples': finder.examples(_EXAMPLES), 'threshold': finder.threshold}
        values |= {'classes': finder.classes if len(finder.classes) <= _CLASSES else []}
        return HTMLResponse(template.render('search.html', **values))

    async def like_photograph(self, request: Request) -> Response:
        wanted = self._asked(request)
        async with self._received.body(request) as photograph:
            return _json(await self._finder.like_photograph(photograph, *wanted))

    async def like_item(self, request: Request) -> Response:
        number = self._numbered(request)
        (item,) = await self._finder.items([number])
        return _json(await self._finder.like_item(number, *self._asked(request)), name=_name(item.path))

    async def picture(self, request: Request) -> Response:
        number = self._numbered(request)
        try:
            side = _FULL if request.query_params.get('full') == '1' else _SIDE
            content, media_type = await self._finder.picture(number, side)
        except UserError:
            raise HTTPException(404, 'the file of this image is gone, or is no picture any more') from None
        return Response(content, media_type=media_type, headers={'Cache-Control': 'private, max-age=3600'})

    def _asked(self, request: Request) -> tuple[int | None, str | None]:
        """Returns how many images to find, and of which class; None: as usual, of any."""
        top, label = request.query_params.get('top'), request.query_params.get('class')
        most = max(MOST, self._finder.top)
        if top is not None and not (
            top.isascii() and top.isdigit() and len(top) < 9 and 0 < int(top) <= most
        ):
            raise HTTPException(400, f'top must be a whole number from 1 to {most}')
        if label is not None and label not in self._finder.classes:
            raise HTTPException(400, f'the index has no class {printable(label, 80)!r}')
        return None if top is None else int(top), label

    def _numbered(self, request: Request) -> int:
        """Returns the row of the index that a path names: nothing else leads to a file."""
        text, images = request.path_params['number'], len(self._finder.index)
        if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) < images):
            raise HTTPException(404, f'the index holds images 0 to {images - 1}; nothing else can be read')
        return int(text)


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
