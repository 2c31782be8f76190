"""Standard output that goes nowhere once its reader, such as head, has left: the mode ends its work."""

import io
import os
import sys


def outlive_readers() -> None:
    """Makes prints to a closed pipe no error, unless standard output was replaced."""
    before = sys.stdout
    if before is not sys.__stdout__ or not isinstance(before, io.TextIOWrapper):
        return
    before.flush()
    raw = _Output(before.fileno(), 'w', closefd=False)
    sys.stdout = io.TextIOWrapper(
        raw if before.write_through else io.BufferedWriter(raw),
        before.encoding,
        before.errors,
        line_buffering=before.line_buffering,
        write_through=before.write_through,
    )


class _Output(io.FileIO):
    def write(self, data) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return memoryview(data).nbytes
