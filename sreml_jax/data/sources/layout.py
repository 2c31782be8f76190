"""Finding a dataset's files in a user's folder, and reading its lists."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sreml_jax.runtime.errors import UserError


def find(source: Path, candidates: Iterable[str]) -> Path | None:
    """Returns the first of source/<candidate> that exists, or None."""
    return next((source / name for name in candidates if (source / name).exists()), None)


def require(source: Path, candidates: Sequence[str], advice: str) -> Path:
    """Returns the first of source/<candidate> that exists.

    Raises:
      UserError: none does; the sentence ends with `advice`.
    """
    found = find(source, candidates)
    if found is None:
        raise UserError(f'There is no {" or ".join(candidates)} in {source}: {advice}')
    return found


def read_table(path: Path, columns: Sequence[Callable], header: int = 0) -> list[list]:
    """Reads a text file of words separated by blanks, empty lines left out.

    Args:
      path: of the file.
      columns: type of each word of a line.
      header: lines to leave out at the start.

    Raises:
      UserError: the file is no such table.
    """
    rows = []
    for number, line in enumerate(read_lines(path)[header:], header + 1):
        if words := line.split():
            try:
                rows.append([column(word) for column, word in zip(columns, words, strict=True)])
            except ValueError:
                raise UserError(
                    f'Line {number} of {path} is damaged ({line[:80]!r}): put a good copy of the file there.'
                ) from None
    return rows


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text file.

    Raises:
      UserError: it is none.
    """
    try:
        return path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'Cannot read {path} ({error}): put a good copy of the file there.') from None
