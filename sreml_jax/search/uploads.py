"""Uploaded photographs, within bounds of bytes, time and memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.requests import Request

MOST_BYTES = 20 * 2**20  # of a photograph
MOST_HELD = 2**29  # bytes of all uploads together
STALL_SECONDS = 10.0  # without a byte
UPLOAD_SECONDS = 120.0  # of a whole upload


class Uploads:
    """Reads the bodies of requests, all in one event loop, and counts the bytes that they hold in memory."""

    def __init__(self) -> None:
        self._held = 0

    @contextlib.asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Yields the body of a request; its bytes are counted until the context ends.

        Raises:
          HTTPException: it is too long, stalls or takes too long, or other uploads fill the memory.
          ClientDisconnect: the client left.
        """
        announced = request.headers.get('content-length', '')
        if announced.isdecimal() and int(announced[:20]) > MOST_BYTES:
            raise _too_long()
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(UPLOAD_SECONDS):
                    parts = aiter(request.stream())
                    while True:
                        # asyncio.wait_for of Python 3.11 may swallow the end of the whole upload's time.
                        async with asyncio.timeout(STALL_SECONDS):
                            part = await anext(parts, None)
                        if part is None:
                            break
                        body += part
                        self._held += len(part)
                        if len(body) > MOST_BYTES:
                            raise _too_long()
                        if self._held > MOST_HELD:
                            raise HTTPException(503, 'too many uploads at this moment; try again')
            except TimeoutError:
                # uvicorn keeps a connection open for some seconds unless it is told otherwise.
                raise HTTPException(408, 'the upload took too long', {'Connection': 'close'}) from None
            yield bytes(body)
        finally:
            self._held -= len(body)


def _too_long() -> HTTPException:
    return HTTPException(413, f'this file is larger than {MOST_BYTES // 2**20} MiB; make it smaller')
