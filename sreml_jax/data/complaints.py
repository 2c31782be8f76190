"""Notices what tensorflow's libjpeg prints about a damaged picture, and keeps it off the terminal.

libjpeg decodes such a picture all the same, and prints to the process's stderr: nothing else shows it.
"""

import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar('T')

# The warnings in libjpeg's jerror.h that a decoder can print.
_LINE = re.compile(
    rb'(Corrupt JPEG data|Premature end of JPEG file|Invalid SOS parameters|Inconsistent progression|'
    rb'Invalid crop request|Unknown Adobe color transform|Warning: unknown JFIF|Obtained XMS|'
    rb'Application transferred too many scanlines|Invalid SOS).*\n?'
)


class Watched:
    """Context that sends stderr to a file. What other code prints there meanwhile is printed at the end.

    Attributes:
      terminal: prints to the stderr that was there before.
    """

    def __enter__(self) -> 'Watched':
        sys.stderr.flush()
        self._file, self._stderr = tempfile.TemporaryFile(), os.dup(2)
        self.terminal = os.fdopen(self._stderr, 'w')
        os.dup2(self._file.fileno(), 2)
        self._turn, self._inside = threading.Condition(), 0
        return self

    def __exit__(self, *_: object) -> None:
        sys.stderr.flush()
        self.terminal.flush()
        os.dup2(self._stderr, 2)
        self.terminal.close()
        self._file.seek(0)
        os.write(2, _LINE.sub(b'', self._file.read()))
        self._file.close()

    def complains(self, decode: Callable[[], T]) -> tuple[T, bool]:
        """Returns what `decode` returns, and whether anything was printed about it; in any thread."""
        with self._turn:
            self._inside += 1
        try:
            result, printed = self._printed(decode)
        finally:
            with self._turn:
                self._inside -= 1
                self._turn.notify_all()
        if printed:  # perhaps about another thread's picture: once more, alone
            with self._turn:
                self._turn.wait_for(lambda: not self._inside)
                result, printed = self._printed(decode)
        return result, printed

    def _printed(self, decode: Callable[[], T]) -> tuple[T, bool]:
        before = os.fstat(2).st_size
        return decode(), os.fstat(2).st_size > before
