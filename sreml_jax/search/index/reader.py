"""A finished index, as it is read."""

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable
from sreml_jax.search.index import schema
from sreml_jax.search.index.rows import checksum, damaged

EMBEDDINGS, ITEMS, ABOUT = 'embeddings.npy', 'items.parquet', 'index.json'
COLUMNS = pa.schema(
    [
        pa.field('path', pa.string(), nullable=False),
        pa.field('width', pa.int32(), nullable=False),
        pa.field('height', pa.int32(), nullable=False),
        pa.field('class', pa.string()),
        pa.field('sha256', pa.string(), nullable=False),
    ]
)


class Item(NamedTuple):
    """An image of an index: its absolute path, its size in pixels, its class or None, its file's sha256."""

    path: str
    width: int
    height: int
    label: str | None
    sha256: str


class Index:
    """An index on disk, which is not read into memory.

    Args:
      folder: that `--mode=embed` wrote.

    Attributes:
      about: index.json; see `IndexWriter.finish`.
      embeddings: float32, float16 or int8 [images, d], memory-mapped; to be multiplied by `scale`.
      scale: float.

    Raises:
      UserError: there is no index in the folder, it is damaged, or a process is changing it.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder).expanduser()
        self.about = read_about(self.folder)
        self.scale: float = self.about['scale']
        self._is_verified = 'crc32' not in self.about
        embeddings = self._opened(EMBEDDINGS, lambda path: np.load(path, mmap_mode='r', allow_pickle=False))
        self._items = self._opened(
            ITEMS, lambda path: parquet.ParquetFile(path, page_checksum_verification=True)
        )
        if is_changing(self.folder) or read_about(self.folder) != self.about:
            raise UserError(f'{self.folder} is being changed at this moment; try again, or embed again')
        shape = (len(self), self.about['dimensions'])
        if not isinstance(embeddings, np.ndarray) or embeddings[: len(self)].shape != shape:
            raise damaged(self.folder / EMBEDDINGS, f'it does not hold {shape[0]:,} rows of {shape[1]:,}')
        if embeddings.dtype != self.about['storage'] or not embeddings.flags.c_contiguous:
            raise damaged(self.folder / EMBEDDINGS, f'it is not {self.about["storage"]}')
        self.embeddings: np.ndarray = embeddings[: len(self)]
        self._check_items()

    def __len__(self) -> int:
        return self.about['images']

    def verify(self) -> None:
        """Reads all embeddings once, and compares them with their checksum, if the index has one.

        Raises:
          UserError: they are not those that were written.
        """
        if not self._is_verified and checksum(self.embeddings) != self.about['crc32'].get(EMBEDDINGS):
            raise damaged(self.folder / EMBEDDINGS, 'its checksum is wrong')
        self._is_verified = True

    def items(self, rows: Sequence[int] | np.ndarray) -> list[Item]:
        """Returns what is known about the images in these rows, in the order asked for."""
        metadata = self._items.metadata
        counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        ends = np.cumsum([0, *counts])
        groups = np.searchsorted(ends, rows, side='right') - 1
        found: dict[int, Item] = {}
        for group in np.unique(groups):
            chosen = np.asarray(rows)[groups == group]
            try:
                table = self._items.read_row_group(group, columns=COLUMNS.names)
                values = table.take(chosen - ends[group]).to_pydict().values()
            except Exception as error:  # pyarrow raises all sorts of it
                raise damaged(self.folder / ITEMS, printable(error)) from error
            found.update(zip(chosen.tolist(), map(Item._make, zip(*values, strict=True)), strict=True))
        return [found[int(row)] for row in rows]

    def classes(self) -> tuple[list[str], np.ndarray]:
        """Returns the names of all classes, sorted, and each image's: int32 [images], -1 if it has none."""
        try:
            column = self._items.read(columns=['class']).column('class').combine_chunks()
            names = sorted(set(column.unique().to_pylist()) - {None})
            numbers = pc.index_in(column, pa.array(names, pa.string())).fill_null(-1)
            return names, numbers.to_numpy().astype(np.int32)
        except Exception as error:  # pyarrow raises all sorts of it
            raise damaged(self.folder / ITEMS, printable(error)) from error

    def _opened(self, name: str, reader: Any) -> Any:
        try:
            return reader(self.folder / name)
        except FileNotFoundError:
            raise damaged(self.folder / name, 'it is not there') from None
        except Exception as error:  # numpy and pyarrow raise all sorts of it
            raise damaged(self.folder / name, printable(error)) from error

    def _check_items(self) -> None:
        """Raises UserError if items.parquet is another than index.json says. Its pages have own checksums."""
        path, metadata = self.folder / ITEMS, self._items.metadata
        wanted = self.about.get('crc32', {}).get(ITEMS)
        if wanted is not None and wanted != footer_checksum(path):
            raise damaged(path, 'its checksum is wrong')
        if metadata.num_rows != len(self):
            raise damaged(path, f'it has {metadata.num_rows:,} rows instead of {len(self):,}')
        columns = self._items.schema_arrow
        if [(name, columns.field(name).type) for name in COLUMNS.names if name in columns.names] != [
            (field.name, field.type) for field in COLUMNS
        ]:
            raise damaged(path, 'it has other columns')


def read_about(folder: Path) -> dict[str, Any]:
    """Returns the index.json of an index; raises UserError if there is none, or if it is damaged."""
    try:
        return read_json(folder / ABOUT)
    except FileNotFoundError:
        begun = (folder / 'unfinished.sqlite').exists()
        advice = 'it is unfinished: embed again and it goes on' if begun else 'make one by --mode=embed'
        raise UserError(f'{folder} holds no index; {advice}') from None
    except (OSError, ValueError) as error:
        raise damaged(folder / ABOUT, printable(error)) from error


def read_json(path: Path) -> dict[str, Any]:
    """Returns what an index.json holds; raises OSError and ValueError."""
    try:
        about = json.loads(path.read_text())
    except RecursionError:
        raise ValueError('its brackets are nested too deep') from None
    if problem := schema.problem(about):
        raise ValueError(problem)
    return about


def new(path: Path) -> Path:
    """Returns where the next state of a file of an index is written before it is moved into place."""
    return path.with_name(path.name + '.new')


def read_next(folder: Path) -> dict[str, Any]:
    """Returns the index.json of a next state that is complete, but not all in place.

    Raises:
      FileNotFoundError: there is none.
      UserError: it is damaged.
    """
    path = new(folder / ABOUT)
    try:
        return read_json(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(
            f'{path} is damaged ({printable(error)}); remove this file, and embed again'
        ) from error


def is_changing(folder: Path) -> bool:
    """Returns whether a next state of the index is complete, but not all in place."""
    try:
        return bool(read_next(folder))
    except FileNotFoundError:
        return False


def footer_checksum(path: Path) -> int:
    """Returns the CRC-32 of a Parquet file's metadata, which end the file before their length and 'PAR1'."""
    with path.open('rb') as file:
        file.seek(-8, os.SEEK_END)
        length = int.from_bytes(file.read(4), 'little')
        file.seek(-8 - length, os.SEEK_END)
        return zlib.crc32(file.read(length))
