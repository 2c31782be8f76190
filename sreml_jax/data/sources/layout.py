"""Finds a dataset's files in a user's folder, and reads its lists."""

import collections
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable

MOST_BYTES = 2**26  # of a list; the longest official one has 8 MB
GOOD_COPY = 'put a good copy of the file there.'


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


def absent(name: str, source: Path, advice: str) -> UserError:
    """Returns the error of a folder without a copy of the benchmark `name`; it ends with `advice`."""
    return UserError(f'no copy of {name} lies in {source.resolve()}: {advice}')


def whole(word: str) -> int:
    """Returns the whole number of at most 18 digits that a word of a list says; raises ValueError."""
    if len(word) > 18:
        raise ValueError('too long')
    return int(word)


def finite(word: str) -> float:
    """Returns the number that a word of a list says; raises ValueError for NaN and infinity as well."""
    number = float(word)
    if not math.isfinite(number):
        raise ValueError('not finite')
    return number


def picture_path(word: str) -> str:
    """Returns a path that stays below its folder; raises ValueError for others, and for impossible names."""
    parts = PurePosixPath(word).parts
    if not parts or word.startswith('/') or '..' in parts or not word.isprintable():
        raise ValueError('not below the folder')
    if max(len(part.encode()) for part in parts) > 255 or len(word.encode()) > 1_000:
        raise ValueError('too long')
    return word


def read_table(path: Path, columns: Sequence[Callable], header: int = 0) -> list[list]:
    """Reads a text file of words separated by blanks, without its empty lines.

    Args:
      path: the file.
      columns: type of each word of a line; raises ValueError for other words.
      header: lines at the start that are no rows.

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
                    f'Line {number} of {path} is damaged ({printable(line, 80)!r}): {GOOD_COPY}'
                ) from None
    return rows


def refuse_repeated(path: Path, values: Iterable[Hashable]) -> None:
    """Raises UserError if a list names an image twice."""
    [(value, times)] = collections.Counter(values).most_common(1) or [(None, 0)]
    if times > 1:
        raise UserError(f'{path} lists {printable(value)} {times} times: {GOOD_COPY}')


def read_lines(path: Path) -> list[str]:
    """Returns the lines of a text file.

    Raises:
      UserError: it is no text file, or larger than MOST_BYTES.
    """
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise UserError(f'{path} is no list of images: {GOOD_COPY}')
        return path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'Cannot read {path} ({error}): {GOOD_COPY}') from None
