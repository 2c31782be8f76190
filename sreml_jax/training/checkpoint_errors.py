"""Explains errors of checkpoints in few words, and silences orbax's own messages."""

import logging
import os
import sys
import textwrap
import warnings


def _in_orbax(path: str) -> bool:
    """Returns whether a source file is one of orbax's."""
    return f'{os.sep}orbax{os.sep}' in path


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Returns whether a line of absl's log comes from a library other than orbax."""
    return not _in_orbax(record.pathname)


def reason(error: BaseException | None) -> str:
    """Returns the first cause of the error in a few words; tensorstore puts it last."""
    if error is None:
        return 'in another process'
    while error.__cause__:
        error = error.__cause__
    text = (isinstance(error, OSError) and error.strerror) or str(error).partition(' [')[0]
    if len(text) > 120:
        text = text.rpartition(': ')[2]
    return textwrap.shorten(text, 120) or type(error).__name__


def hush() -> None:
    """Silences orbax: its log, and the reads and writes it leaves pending when one file fails."""
    logging.getLogger('absl').addFilter(_not_of_orbax)
    warnings.filterwarnings('ignore', "coroutine '.*' was never awaited")
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
    before = sys.unraisablehook
    if getattr(before, '__name__', '') == 'without_orphans':
        return

    def without_orphans(unraisable):
        error = unraisable.exc_value
        cause = getattr(error, '__cause__', None)
        if str(error) == 'Event loop is closed' or isinstance(cause, GeneratorExit):
            return
        # Where warnings are errors, the filter above may be gone when a read that never began is freed.
        code = getattr(unraisable.object, 'cr_code', None)
        if code is None or not _in_orbax(code.co_filename) or not isinstance(error, RuntimeWarning):
            before(unraisable)

    sys.unraisablehook = without_orphans
