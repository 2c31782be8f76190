"""--mode=serve: the small server of the search page."""

import asyncio
import ipaddress
import signal
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable
from sreml_jax.search.batched import Finder
from sreml_jax.search.guard import Guard
from sreml_jax.search.pages import app

SILENT_SECONDS = 10.0  # of a connection before its request
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOCAL = ('127.0.0.1', 'localhost', '[')  # the last is [::1]: starlette cuts a host at its first colon


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
