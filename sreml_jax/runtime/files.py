"""Files that are written whole or not at all, and the sentences for those that cannot be written."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sreml_jax.runtime.errors import RunError


@contextlib.contextmanager
def explained(
    path: Path, error: type[Exception] = RunError, advice: str = 'make room there, and run it again'
) -> Iterator[None]:
    """Raises `error`, one sentence that ends with `advice`, in place of the OSError of writing `path`."""
    try:
        yield
    except OSError as cause:
        why = cause.strerror or cause
        raise error(f'{path} cannot be written ({why}); {advice}') from cause


@contextlib.contextmanager
def atomic_write(
    path: Path, error: type[Exception] = RunError, advice: str = 'make room there, and run it again'
) -> Iterator[Path]:
    """Yields a temporary path, and moves what was written there to `path`: readers find a whole file.

    Raises:
      error: the file could not be written, for example on a full disk; what was at `path` stays.
    """
    temporary = path.with_name(path.name + '.tmp')
    with explained(path, error, advice):
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
