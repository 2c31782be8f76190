"""An index being changed: images are added and removed, and a killed process loses a second of work."""

import contextlib
import json
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from sreml_jax.retrieval import quantization
from sreml_jax.runtime import files
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable
from sreml_jax.search.index import compatibility
from sreml_jax.search.index.journal import JOURNAL, Journal
from sreml_jax.search.index.reader import (
    ABOUT,
    COLUMNS,
    EMBEDDINGS,
    ITEMS,
    Index,
    Item,
    footer_checksum,
    new,
    read_about,
    read_next,
)
from sreml_jax.search.index.rows import Rows, checksum, damaged

COMMIT_SECONDS = 1.0  # between two commits of the journal
GROUP_ROWS, _GROUP_BYTES = 2**14, 2**25  # of items.parquet's row groups, at most


class IndexWriter:
    """The next state of an index. A context manager: on leaving, the journal holds what was done.

    It goes on from the journal that a killed process left, or begins as the index in the folder.

    Args:
      folder: of the index; made if it is not there.
      wanted: what makes the embeddings: 'checkpoint' (with its 'fingerprint'), 'preprocessing',
        'dimensions', 'bound' (see quantization.scale_of), 'storage' (of quantization.CHOICES) and 'vectors'
        (whether items.parquet has a column of them); None leaves the last two as they are. None: images
        are only removed.

    Raises:
      UserError: the folder holds an index of another kind, a damaged one or none to remove from, cannot be
        written, or another process is changing it.
    """

    def __init__(self, folder: Path, wanted: dict[str, Any] | None = None):
        self.folder = folder
        none = UserError(f'{folder} holds no index; make one by --mode=embed --images=... --out={folder}')
        if wanted is None and not any((folder / name).exists() for name in (ABOUT, JOURNAL)):
            raise none
        with files.explained(folder, UserError, 'take another --out'):
            folder.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(folder)
        try:
            with contextlib.suppress(FileNotFoundError):
                self._move_into_place(read_next(folder))
            there = self._load()
            if there is None and wanted is None:
                raise none
            self.about = compatibility.settled(folder, there, wanted)
            self._journal.write_about(self.about)
            self._rows = Rows(folder / EMBEDDINGS, self.about['storage'], self.about['dimensions'])
            self._next, self._checksum = self._begin()
        except BaseException:
            self._journal.close()
            raise
        self._saved = time.monotonic()

    def __enter__(self) -> 'IndexWriter':
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.save()
        finally:
            self._journal.close()

    def __len__(self) -> int:
        return len(self._journal)

    def sha256(self, path: str) -> str:
        """Returns the hash that the image of this path was embedded with, or ''."""
        return self._journal.sha256(path)

    def add(self, items: list[Item], embeddings: np.ndarray) -> None:
        """Adds images, float32 [len(items), dimensions]; an image of a known path replaces the old one."""
        stored = quantization.encode(embeddings, self.about['storage'], self.about['scale'])
        with files.explained(self._rows.path):
            self._rows.write(self._next, stored)
        self._checksum = checksum(stored, self._checksum)
        for item in items:
            self._journal.put(self._next, item)
            self._next += 1
        if time.monotonic() - self._saved > COMMIT_SECONDS:
            self.save()

    def leave_out(self, path: str, problem: str) -> None:
        """Notes an image, or a folder, that cannot be read; removes what was embedded of its path."""
        self._journal.leave_out(path, problem)

    def remove(self, unwanted: Callable[[str], bool]) -> int:
        """Removes the images, and the unreadable ones, if unwanted(path); returns how many images."""
        return self._journal.remove(unwanted)

    def forget_unreadable(self, chosen: Callable[[str], bool]) -> None:
        """Drops the notes of `leave_out` if chosen(path)."""
        self._journal.forget_unreadable(chosen)

    def unreadable(self) -> dict[str, str]:
        """Returns path -> what is wrong with it."""
        return self._journal.unreadable()

    def save(self) -> None:
        """Commits the journal: whatever happens, nothing added until now is embedded again."""
        with files.explained(self._rows.path):
            self._rows.sync()
        self._journal.write_rows(self._next, self._checksum)
        self._journal.commit()
        self._saved = time.monotonic()

    def finish(self, versions: dict[str, str]) -> None:
        """Makes this state the index of the folder, in one step for readers, whenever the process is killed.

        index.json holds what `about` says, 'images', 'revision' (another one for every state), 'changed'
        (UTC), 'versions', 'unreadable' (path -> what is wrong) and 'crc32' (file -> the checksum of its
        rows, or of its Parquet footer).
        """
        self.save()
        with files.explained(self.folder):
            checksums = self._write_next()
            about = {
                **self.about,
                'images': len(self),
                'revision': secrets.token_hex(8),
                'changed': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
                'versions': versions,
                'unreadable': self.unreadable(),
                'crc32': checksums,
            }
            temporary = self.folder / (ABOUT + '.tmp')
            temporary.write_text(json.dumps(about, indent=1) + '\n')
            _sync(temporary)
            temporary.replace(new(self.folder / ABOUT))  # if killed from here on, the next process goes on
            self._move_into_place(about)
            (self.folder / JOURNAL).unlink()

    def _write_next(self) -> dict[str, int]:
        """Writes the next items.parquet, and embeddings.npy if rows were removed; returns the checksums."""
        number = len(self)
        holes = number != self._journal.rows
        if number < self._next:  # damage must not be copied and get a checksum of its own
            self._refuse_damaged_rows(self._next, self._checksum)
        compacted = new(self.folder / EMBEDDINGS)
        compacted.unlink(missing_ok=True)
        rows = Rows(compacted, self.about['storage'], self.about['dimensions']) if holes else None
        items = new(self.folder / ITEMS)
        try:
            self._write_items(items, rows)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise damaged(self._journal.path, printable(error)) from error
        _sync(items)
        if rows:
            rows.declare(number)
            rows.sync()
        unchanged = number == self._next
        rows_checksum = self._checksum if unchanged else (rows or self._rows).checksum(0, number)
        return {EMBEDDINGS: rows_checksum, ITEMS: footer_checksum(items)}

    def _write_items(self, path: Path, rows: Rows | None) -> None:
        """Writes items.parquet, and the embeddings of its items into `rows`."""
        dimensions, scale, schema = self.about['dimensions'], self.about['scale'], COLUMNS
        if self.about['vectors']:
            schema = schema.append(pa.field('embedding', pa.list_(pa.float32(), dimensions)))
        size = max(1, min(GROUP_ROWS, _GROUP_BYTES // (4 * dimensions)))
        written = 0
        with parquet.ParquetWriter(path, schema, compression='zstd', write_page_checksum=True) as writer:
            for group in self._journal.groups(size):
                row, *columns = zip(*group, strict=True)
                if rows or self.about['vectors']:
                    stored = self._rows.read(np.array(row))
                if rows:
                    rows.write(written, stored)
                if self.about['vectors']:
                    vectors = pa.array(quantization.decode(stored, scale).reshape(-1))
                    columns.append(pa.FixedSizeListArray.from_arrays(vectors, dimensions))
                writer.write_table(pa.table(columns, schema), row_group_size=len(row))
                written += len(row)

    def _begin(self) -> tuple[int, int]:
        """Returns the row to write next, and the checksum of the rows before it."""
        # No row that a reader of the present index sees is written over.
        exists = (self.folder / ABOUT).exists()
        finished: dict[str, Any] = read_about(self.folder) if exists else {'images': 0}
        visible = finished['images']
        first = max(visible, self._journal.rows)
        if saved := self._journal.written_rows():
            self._refuse_damaged_rows(*saved)
            if saved[0] >= first:
                return saved
        before = finished.get('crc32', {}).get(EMBEDDINGS) if first == visible else None
        return first, self._rows.checksum(0, first) if before is None else before

    def _refuse_damaged_rows(self, rows: int, checksum: int) -> None:
        if self._rows.checksum(0, rows) != checksum:
            raise damaged(self._rows.path, 'its checksum is wrong')

    def _move_into_place(self, about: dict[str, Any]) -> None:
        """Puts the files of a complete next state under their names, index.json last; may be repeated."""
        if (compacted := new(self.folder / EMBEDDINGS)).exists():
            compacted.replace(self.folder / EMBEDDINGS)
        rows = Rows(self.folder / EMBEDDINGS, about['storage'], about['dimensions'])
        rows.declare(about['images'])
        rows.sync()
        if (items := new(self.folder / ITEMS)).exists():
            items.replace(self.folder / ITEMS)
        self._journal.clear()  # it belongs to the state before
        new(self.folder / ABOUT).replace(self.folder / ABOUT)

    def _load(self) -> dict[str, Any] | None:
        """Returns what makes the folder's embeddings; an empty journal becomes that of the index."""
        if about := self._journal.about():
            return about
        if not (self.folder / ABOUT).exists():
            if (self.folder / EMBEDDINGS).exists():
                raise UserError(f'{self.folder} holds an {EMBEDDINGS} but no {ABOUT}; take another --out')
            return None
        index = Index(self.folder)
        size = 2**14
        parts = (range(first, min(first + size, len(index))) for first in range(0, len(index), size))
        rows = ((row, *item) for part in parts for row, item in zip(part, index.items(part), strict=True))
        self._journal.put_all(rows, index.about['unreadable'])
        return {name: index.about[name] for name in compatibility.FIELDS}


def _sync(path: Path) -> None:
    with path.open('rb') as file:
        os.fsync(file.fileno())
