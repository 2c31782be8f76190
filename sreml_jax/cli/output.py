"""Standard output that goes nowhere once its reader, such as head, has left: the mode ends its work."""

import io
import os
import sys


def outlive_readers() -> None:
    """Makes prints to a closed pipe no error, unless standard output was replaced."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        sys.stdout.flush()
        encoding, buffered = sys.stdout.encoding, not sys.stdout.isatty()
        raw = _Output(sys.stdout.fileno(), 'w', closefd=False)
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), encoding, line_buffering=not buffered)


class _Output(io.FileIO):
    def write(self, data) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return memoryview(data).nbytes
