"""The images that a source lists: which exist, a hash of their state, and notes for the tables."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sreml_jax.data import decode
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable


class Example(NamedTuple):
    """One image of a split.

    Attributes:
      path: of the file.
      label: name of the class.
      box: left, top, right, bottom in pixels, the last two exclusive; None where the dataset has no boxes.
    """

    path: Path
    label: str
    box: decode.Box | None = None


class Listing(NamedTuple):
    """The images of a source that exist.

    Attributes:
      examples: by split.
      digest: hash of names, sizes, times, labels and boxes, in hexadecimal.
      notes: what tables must say of the lists.
    """

    examples: dict[str, list[Example]]
    digest: str
    notes: list[str]


def of(
    name: str,
    source: Path,
    found: Mapping[str, Sequence[Example]],
    *,
    version: str,
    benchmark: Mapping[str, tuple[int, int]],
    allow_missing: bool,
) -> Listing:
    """Looks for every listed image on disk.

    Args:
      name: of the dataset.
      source: folder of the user's copy.
      found: split -> the images that the dataset's lists name.
      version: of the preparation; a part of the digest.
      benchmark: split -> images and classes of its full list.
      allow_missing: whether listed images may be missing.

    Raises:
      UserError: images are missing and may not be, a file cannot be looked at, or a split has no image.
    """
    digest = hashlib.sha256(f'{source} {version}'.encode())
    there: dict[str, list[Example]] = {}
    missing, notes = [], []
    for split, examples in found.items():
        there[split] = []
        notes += _short_list(split, examples, benchmark)
        for example in examples:
            try:
                state = example.path.stat()
            except (FileNotFoundError, NotADirectoryError):
                missing.append(file_name(source, example))
                continue
            except (OSError, ValueError) as error:
                raise UserError(f'{name}: {printable(example.path)}: {error}') from None
            there[split].append(example)
            line = f'{split} {example.path} {example[1:]} {state.st_size} {state.st_mtime_ns}\n'
            digest.update(line.encode(errors='surrogateescape'))
    if missing and not allow_missing:
        raise UserError(
            f'{name}: {len(missing):,} of the listed images are missing from {source} ({shown(missing)}); '
            'complete it, or go on without them by --config.allow_missing=True.'
        )
    for split, examples in there.items():
        if not examples:
            raise UserError(f'{name}: no image of the {split} split lies in {source}.')
    if missing:
        notes.append(f'{len(missing):,} listed images are missing')
    return Listing(there, digest.hexdigest()[:16], notes)


def file_name(source: Path, example: Example) -> str:
    """Returns the path of an image below the source, escaped: names on disk need not be UTF-8."""
    path = example.path
    return printable(str(path.relative_to(source) if path.is_relative_to(source) else path), None)


def shown(names: Sequence[str], most: int = 20) -> str:
    """Returns the first names as a part of a sentence, and how many more there are."""
    more = f'; and {len(names) - most:,} more' if len(names) > most else ''
    return '; '.join(names[:most]) + more


def _short_list(
    split: str, examples: Sequence[Example], benchmark: Mapping[str, tuple[int, int]]
) -> list[str]:
    """Returns a note if the list of a split is not the benchmark's, as in a copy that was cut."""
    found = len(examples), len({example.label for example in examples})
    full = benchmark.get(split, found)
    if found == full:
        return []
    names = ('{:,} images of {:,} classes'.format(*counts) for counts in (found, full))
    return ['{} lists {} instead of {}'.format(split, *names)]
