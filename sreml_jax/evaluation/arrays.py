"""Embeddings and labels of any program, read from files."""

import csv
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable

EMBEDDING = 'embedding'  # the column of a Parquet file
LABELS = ('label', 'class')  # the column of a Parquet or CSV file, the first one that is there
_DAMAGED = (EOFError, KeyError, TypeError, ValueError, csv.Error, zipfile.BadZipFile, pa.ArrowException)


def embeddings(path: Path) -> np.ndarray:
    """Reads embeddings: a .npy of [images, d], or a .parquet with a column 'embedding' of lists.

    Returns:
      float32 [images, d], scaled to unit length, so that similarities are cosines.

    Raises:
      UserError: the file is missing or damaged, holds something else, or a row has no direction.
    """
    read = _reader(path, {'.npy': _npy, '.parquet': _parquet_embeddings}, '--embeddings')
    found = read(path)
    if found.ndim != 2 or not found.size or not np.issubdtype(found.dtype, np.number):
        raise UserError(
            f'{path} holds {found.dtype} {list(found.shape)}; embeddings are numbers, [images, dimensions]'
        )
    if np.iscomplexobj(found):
        raise UserError(f'{path} holds complex numbers; embeddings are real')
    found = found.astype(np.float32)
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    if len(wrong := np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))):
        raise UserError(
            f'row {wrong[0]} of {path} is all zeros or not finite ({len(wrong):,} such rows); an embedding '
            'needs a direction'
        )
    return found / lengths


def labels(path: Path) -> np.ndarray:
    """Reads one label a row: a .npy of [images], a .txt of lines, or the column of a .csv or .parquet.

    Returns:
      [images], strings or integers.

    Raises:
      UserError: the file is missing or damaged, or holds something else.
    """
    readers = {'.npy': _npy, '.txt': _lines, '.csv': _csv_labels, '.parquet': _parquet_labels}
    found = _reader(path, readers, '--labels')(path)
    if found.ndim != 1 or found.dtype.kind not in 'iuU':
        raise UserError(
            f'{path} holds {found.dtype} {list(found.shape)}; labels are whole numbers or names, [images]'
        )
    return found


def _reader(
    path: Path, readers: Mapping[str, Callable[[Path], np.ndarray]], flag: str
) -> Callable[[Path], np.ndarray]:
    """Returns a reader of files of this kind, which raises UserError alone."""
    if path.suffix not in readers:
        raise UserError(f'{flag}={printable(path)} must end in one of {", ".join(readers)}')

    def read(path: Path) -> np.ndarray:
        try:
            return readers[path.suffix](path)
        except UserError:
            raise
        except OSError as error:
            raise UserError(f'{path} cannot be read ({error.strerror or printable(error)})') from None
        except _DAMAGED as error:
            raise UserError(f'{path} is no whole {path.suffix} file ({printable(error)})') from error

    return read


def _npy(path: Path) -> np.ndarray:
    with path.open('rb') as file:
        found = np.load(file, allow_pickle=False)
    if not isinstance(found, np.ndarray):
        raise ValueError('it is an archive of several arrays')
    return found


def _parquet_embeddings(path: Path) -> np.ndarray:
    column = _column(path, (EMBEDDING,))
    if not (pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)):
        raise UserError(f'the column {EMBEDDING!r} of {path} holds {column.type}, not lists of numbers')
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) > 1:
        raise UserError(f'embeddings of {path} differ in their number of dimensions, or are missing')
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _parquet_labels(path: Path) -> np.ndarray:
    values = _column(path, LABELS).to_pylist()
    if None in values:
        raise UserError(f'row {values.index(None)} of {path} has no label')
    return np.array(values)


def _column(path: Path, names: tuple[str, ...]) -> pa.Array:
    file = parquet.ParquetFile(path)
    for name in names:
        if name in file.schema_arrow.names:
            return file.read([name]).column(name).combine_chunks()
    raise _no_column(path, names, file.schema_arrow.names)


def _no_column(path: Path, wanted: Iterable[str], there: Iterable[str]) -> UserError:
    known = ', '.join(printable(name, 40) for name in there)
    return UserError(f'{path} has no column {" or ".join(map(repr, wanted))}; it has {printable(known)}')


def _lines(path: Path) -> np.ndarray:
    return np.array(path.read_text(encoding='utf-8-sig').splitlines())


def _csv_labels(path: Path) -> np.ndarray:
    with path.open(encoding='utf-8-sig', newline='') as file:
        rows = csv.DictReader(file, strict=True)
        names = rows.fieldnames or ()
        name = next((name for name in LABELS if name in names), None)
        if name is None:
            raise _no_column(path, LABELS, names)
        return np.array([row[name] or '' for row in rows])
