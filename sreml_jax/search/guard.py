"""What protects the search page from other pages in the same browser."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    'Content-Security-Policy': (
        "default-src 'none'; img-src 'self' blob: data:; connect-src 'self'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
}
_ENCODED = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


class Guard:
    """Puts `HEADERS` on every answer of an app, and refuses what another page asks it to do.

    Args:
      app: to protect.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_guarded(message: Message) -> None:
            if message['type'] == 'http.response.start':
                message = {**message, 'headers': [*message.get('headers', ()), *_ENCODED]}
            await send(message)

        app = self._app
        if scope['type'] == 'http' and scope['method'] not in ('GET', 'HEAD') and _is_foreign(scope):
            app = JSONResponse({'error': 'another page asked for this; use the page of this server'}, 403)
        await app(scope, receive, send_guarded)


def _is_foreign(scope: Scope) -> bool:
    """Whether a browser says that the request comes from a page of another server; programs say nothing."""
    headers = Headers(scope=scope)
    origin = headers.get('origin')
    try:
        return origin is not None and urlsplit(origin).netloc.lower() != headers.get('host', '').lower()
    except ValueError:
        return True
