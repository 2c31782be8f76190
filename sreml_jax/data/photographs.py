"""Finds a user's own photographs in a folder or by a glob; reads, hashes and decodes a few at a time."""

import fnmatch
import functools
import glob
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sreml_jax.data import decode
from sreml_jax.data.tensorflow_import import import_tensorflow
from sreml_jax.runtime import machine
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable

_SHOWN = 5  # names of files that are no pictures


class Found(NamedTuple):
    """A file that should be a picture, or a folder that cannot be looked into.

    Attributes:
      path: absolute; links are not resolved. Bytes that are not UTF-8 are escaped, since tables need UTF-8.
        The path of a folder ends with '/'.
      label: its class: the name of its folder, if that is below the searched folder; else None.
      problem: why reading this file was not attempted, or ''.
    """

    path: str
    label: str | None
    problem: str = ''


class Photograph(NamedTuple):
    """A file that was read.

    Attributes:
      path, label: as in `Found`.
      sha256: of the file's bytes, in hexadecimal; '' if it could not be read.
      width, height: pixels, upright.
      image: uint8 [size, size, 3], with the pixels that evaluation would see; None if the file was known
        already or is not a picture.
      problem: a sentence about a file that is not a picture, or ''.
    """

    path: str
    label: str | None
    sha256: str = ''
    width: int = 0
    height: int = 0
    image: np.ndarray | None = None
    problem: str = ''


class Pattern:
    """A folder with everything below it, a glob such as 'photos/**/*.jpg', or one file.

    Hidden files and folders never match. A folder or a glob matches only files with a picture's suffix.

    Args:
      text: what the user typed.

    Raises:
      UserError: a folder above it may not be read by this user.
    """

    def __init__(self, text: str):
        path = Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100, Path.absolute keeps '..'
        parts = path.parts
        try:
            self._is_file = path.is_file()
        except OSError as error:
            raise UserError(f'{path}: {error.strerror}') from None
        self._parts: tuple[str, ...]
        if self._is_file:
            first, self._parts = len(parts) - 1, (glob.escape(path.name),)
        elif path.exists() or not glob.has_magic(str(path)):
            first, self._parts = len(parts), ('**', '*')
        else:
            first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
            self._parts = (*parts[first:], '*') if parts[-1] == '**' else parts[first:]
        self.base = Path(*parts[:first])
        self.others, self._shown = 0, list[str]()

    def matches(self, path: str) -> bool:
        """Returns whether an absolute path matches, even if the file does not exist."""
        parts, base = Path(path).parts, self.base.parts
        if parts == base:  # a file that is gone
            return True
        return parts[: len(base)] == base and self._match(parts[len(base) :], self._parts)

    def covers(self, path: str) -> bool:
        """Returns whether `find` would yield this path of a file or a folder if it existed."""
        if not path.endswith('/'):
            return self.matches(path)
        parts, base = Path(path).parts, self.base.parts
        below = parts[len(base) :]
        return parts[: len(base)] == base and (not below or self._may_hold(below))

    def find(self) -> Iterator[Found]:
        """Yields the files in the order of their names, a folder's own files before those below it.

        A folder that cannot be read is yielded itself, with the problem. Only the names of one folder and of
        those above it are in memory.
        """
        self.others, self._shown = 0, []
        if self.base.is_dir():
            yield from self._walk(str(self.base), (), frozenset())

    def left_out(self) -> str:
        """Returns a sentence on the files that are no pictures, which `find` has passed over, or ''."""
        if not self.others:
            return ''
        names = ', '.join(printable(os.path.relpath(path, self.base), 80) for path in self._shown)
        more = ', ...' if self.others > len(self._shown) else ''
        return f'{self.others:,} files are no pictures and are left out: {names}{more}'

    def _walk(self, folder: str, below: tuple[str, ...], above: frozenset) -> Iterator[Found]:
        files: list[str] = []
        folders: list[str] = []
        try:
            state = os.stat(folder)  # noqa: PTH116
            if (state.st_dev, state.st_ino) in above:
                return  # a link to a folder that it lies in
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.name.startswith('.'):
                        (folders if _is_folder(entry) else files).append(entry.name)
        except OSError as error:
            yield _found(f'{folder}/', None, f'{folder}: {error.strerror}')
            return
        for name in sorted(files):
            if not self._match((*below, name), self._parts):
                continue
            path = os.path.join(folder, name)  # noqa: PTH118
            if self._is_file or name.lower().endswith(decode.SUFFIXES):
                yield _found(path, below[-1] if below else None)
            else:
                self.others += 1
                self._shown.extend([_found(path, None).path] if len(self._shown) < _SHOWN else [])
        above = above | {(state.st_dev, state.st_ino)}
        for name in sorted(folders):
            if self._may_hold((*below, name)):
                yield from self._walk(os.path.join(folder, name), (*below, name), above)  # noqa: PTH118

    def _match(self, names: tuple[str, ...], parts: tuple[str, ...]) -> bool:
        if not parts or not names:
            return not parts and not names
        if parts[0] == '**':
            return self._match(names, parts[1:]) or self._match(names[1:], parts)
        return fnmatch.fnmatchcase(names[0], parts[0]) and self._match(names[1:], parts[1:])

    def _may_hold(self, names: tuple[str, ...]) -> bool:
        """Returns whether files below a folder can match."""
        for name, part in zip(names, self._parts, strict=False):
            if part == '**':
                return True
            if not fnmatch.fnmatchcase(name, part):
                return False
        return len(names) < len(self._parts)


def read(files: Iterable[tuple[Found, str]], size: int) -> Iterator[Photograph]:
    """Yields each file as a Photograph, in order; threads on every core read a few files ahead.

    Args:
      files: (the file, its known sha256 or ''); a file whose bytes have not changed is not decoded.
      size: pixels of both sides of the images made.
    """
    resize = _resizer(size)
    return machine.in_threads(lambda file: _read(file[0], file[1], resize), files)


def images(paths: Iterable[str | Path], size: int) -> np.ndarray:
    """Returns the pictures in these files, uint8 [files, size, size, 3]; raises UserError for a bad one."""
    made = []
    for photograph in read(((_found(str(path), None), '') for path in paths), size):
        if photograph.problem:
            raise UserError(photograph.problem)
        if photograph.image is not None:  # no file was known already
            made.append(photograph.image)
    return np.stack(made) if made else np.empty((0, size, size, 3), np.uint8)


def image(encoded: bytes, name: str, size: int) -> np.ndarray:
    """Returns the picture in these bytes, uint8 [size, size, 3]; raises UserError for a bad one."""
    with decode.opened(encoded, name) as (picture, _):
        return _resizer(size)(np.asarray(picture))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads into a closed folder
        return False


def _found(path: str, label: str | None, problem: str = '') -> Found:
    name = os.fsencode(path).decode(errors='backslashreplace')
    if name != path:
        return Found(name, None, f'{name}: the name is not UTF-8; rename the file or its folder')
    return Found(path, label, problem)


def _read(file: Found, known: str, resize: Callable[[np.ndarray], np.ndarray]) -> Photograph:
    path, label, problem = file
    if problem:
        return Photograph(path, label, problem=problem)
    try:
        encoded = decode.read_file(path)
    except UserError as error:
        return Photograph(path, label, problem=str(error))
    sha256 = hashlib.sha256(encoded).hexdigest()
    if sha256 == known:
        return Photograph(path, label, sha256)
    try:
        with decode.opened(encoded, path) as (picture, _):
            return Photograph(path, label, sha256, *picture.size, resize(np.asarray(picture)))
    except UserError as error:
        return Photograph(path, label, sha256, problem=str(error))


@functools.cache
def _resizer(size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the resizing function of training and evaluation, safe in threads; imports tensorflow."""
    import_tensorflow()
    import tensorflow as tf

    from sreml_jax.data.tf_pictures import resized

    signature = tf.TensorSpec([None, None, 3], tf.uint8)
    function = tf.function(lambda picture: resized(picture, size)).get_concrete_function(signature)
    return lambda picture: function(tf.convert_to_tensor(picture)).numpy()
