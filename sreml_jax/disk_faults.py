"""What is raised where a file can not be read or written, as sentences, and what orbax prints besides."""

import contextlib
import logging
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

from sreml_jax.errors import RunError


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Raises a RunError in the place of the OSError of writing `path`."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise RunError(f'{path} can not be written ({why}); make room there, and run it again') from error


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives a path to write to, and moves what was written there to `path`: whoever reads finds a whole file.

    Raises:
      RunError: it could not be written, as on a full disk; what was at `path` stays.
    """
    temporary = path.with_name(path.name + '.tmp')
    with told(path):
        try:
            yield temporary
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def reason(error: BaseException | None) -> str:
    """Returns what went wrong in a few words: the first cause, which tensorstore puts last."""
    if error is None:
        return 'in another process'
    while error.__cause__:
        error = error.__cause__
    text = (isinstance(error, OSError) and error.strerror) or str(error).partition(' [')[0]
    if len(text) > 120:
        text = text.rpartition(': ')[2]
    return textwrap.shorten(text, 120) or type(error).__name__


def hush() -> None:
    """Silences what tensorstore and orbax have under way when one file fails: each finds its loop gone."""
    warnings.filterwarnings('ignore', "coroutine '.*' was never awaited")
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)
    before = sys.unraisablehook
    if getattr(before, '__name__', '') == 'without_orphans':
        return

    def without_orphans(unraisable):
        error = unraisable.exc_value
        cause = getattr(error, '__cause__', None)
        if str(error) != 'Event loop is closed' and not isinstance(cause, GeneratorExit):
            before(unraisable)

    sys.unraisablehook = without_orphans
