"""SIGINT and SIGTERM: finish the step, save, exit with 130 or 143; a second one exits at once."""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

GRACE = 3.0  # seconds; then a signal that the main thread does not notice, being in C, ends the process


class Signals:
    """Handles both signals from construction on.

    Outside `held` the first signal ends the program by SystemExit, so that files are closed and temporary
    ones removed. Inside, it is only noted.

    Attributes:
      received: number of the first signal, or 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self._held = self._at_once = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)
        arrived, sent = os.pipe()
        os.set_blocking(sent, False)
        signal.set_wakeup_fd(sent, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(arrived,), name='signals', daemon=True).start()

    def _watch(self, arrived: int) -> None:
        """Ends the process at the second signal.

        A thread does so at once: `_handle` waits for as long as the main one is in a C call, as it is while
        a program is compiled. It starts no timer: Python 3.12 refuses new threads at the program's end.
        """
        first = 0
        grace_ends: float | None = None
        while True:
            left = None if grace_ends is None else max(0, grace_ends - time.monotonic())
            if not select.select([arrived], [], [], left)[0]:
                grace_ends = None
                if not self.received and not self._held:
                    self._end(first)
                continue
            for number in os.read(arrived, 64):
                if signal.getsignal(number) != self._handle:  # another's, such as the web server's
                    continue
                if first:
                    os._exit(128 + number)
                if self._at_once:
                    self._end(number)
                first, grace_ends = number, time.monotonic() + GRACE

    def _end(self, number: int) -> NoReturn:
        os.write(2, b'stopped\n')
        os._exit(128 + number)

    def _handle(self, number: int, frame: object) -> None:
        if self.received:
            os._exit(128 + number)
        self.received = number
        if self._held:
            print('\nfinishing the step and saving; once more to exit at once', file=sys.stderr, flush=True)
        else:
            self.leave('stopped')

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While inside, a signal is only noted; what comes after must call `leave`."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    @contextlib.contextmanager
    def ending_at_once(self) -> Iterator[None]:
        """While inside, the first signal ends the process at once: a compilation has nothing to save."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def leave(self, message: str) -> None:
        """Ends the program with the signal's exit code if one was received."""
        if self.received:
            print(message, file=sys.stderr, flush=True)
            raise SystemExit(128 + self.received)
