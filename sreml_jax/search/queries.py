"""The photographs that a search begins with: files, folders and globs, read and embedded batch by batch."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sreml_jax import memory
from sreml_jax.data import photographs
from sreml_jax.data.photographs import Found, Pattern, Photograph
from sreml_jax.embedder import Embedder
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable


class Queries(NamedTuple):
    """Photographs to look for.

    Attributes:
      paths: as given, if the file itself was named; absolute, if a folder or glob led to it.
      hashes: sha256 of each file, in hexadecimal.
      embeddings: float32 [paths, d], rows of unit length.
      problems: a sentence about each file that cannot be read, and about each name that leads to none.
    """

    paths: list[str]
    hashes: list[str]
    embeddings: np.ndarray
    problems: list[str]


def read(embedder: Embedder, named: Sequence[str]) -> Queries:
    """Embeds the photographs that are named, each once, in the order of the names.

    Args:
      embedder: of the index to be searched.
      named: files, folders and globs; see `Pattern`.
    """
    files: dict[str, Found] = {}
    problems: list[str] = []
    for text in named:
        try:
            found = _find(text)
        except UserError as error:
            problems.append(str(error))
            continue
        files.update((file.path, file) for file in found)
        if not found:
            problems.append(f'{printable(text)}: there is no such file, and no picture below it')
    # They are joined when all are embedded, and a search needs them at once.
    size = 2 * 4 * len(files) * embedder.dimensions
    advice = f'search for fewer than {len(files):,} photographs at a time'
    memory.refuse_on_host('searching', {'embeddings of the photographs': size}, advice)
    paths, hashes, embeddings = [], [], []
    photos = photographs.read(((file, '') for file in files.values()), embedder.image_size)
    while batch := list(itertools.islice(photos, embedder.batch_size)):
        problems += [photo.problem for photo in batch if photo.problem]
        whole = [photo for photo in batch if photo.image is not None]
        if whole:
            embeddings.append(embedder.images(np.stack(list(_images(whole)))))
            paths += [photo.path for photo in whole]
            hashes += [photo.sha256 for photo in whole]
    empty = np.empty((0, embedder.dimensions), np.float32)
    return Queries(paths, hashes, np.concatenate([empty, *embeddings]), problems)


def _images(photos: Iterable[Photograph]) -> Iterator[np.ndarray]:
    return (photo.image for photo in photos if photo.image is not None)


def _find(text: str) -> list[Found]:
    """Returns the files that a name stands for; a file may have any name, a hidden one included."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return list(Pattern(text).find())  # which says what is wrong with the name
    if Path(text).expanduser().is_file():
        return [Found(str(Path(text).expanduser()), None)]
    return list(Pattern(text).find())
