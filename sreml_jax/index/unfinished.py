"""An index at work: images are added and removed, and a killed process loses a second of it."""

import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from sreml_jax.errors import UserError
from sreml_jax.index import storage
from sreml_jax.index.folder import ABOUT, EMBEDDINGS, ITEMS, Index, Item, is_changing, new

JOURNAL = 'unfinished.sqlite'
SECONDS = 1.0  # between two commits of the journal
_GROUP_ROWS, _GROUP_BYTES = 2**14, 2**25  # of items.parquet's row groups, at most
_TABLES = """
    CREATE TABLE IF NOT EXISTS about (json TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS items (
        row INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, width INTEGER NOT NULL, height INTEGER NOT NULL,
        class TEXT, sha256 TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS unreadable (path TEXT PRIMARY KEY, problem TEXT NOT NULL);
"""
_COLUMNS = pa.schema(
    [
        pa.field('path', pa.string(), nullable=False),
        pa.field('width', pa.int32(), nullable=False),
        pa.field('height', pa.int32(), nullable=False),
        pa.field('class', pa.string()),
        pa.field('sha256', pa.string(), nullable=False),
    ]
)


class Unfinished:
    """The next state of an index. A context: on leaving it what was done is in the journal.

    The journal goes on from where a killed process left it, or begins as the index in the folder.

    Args:
      folder: of the index; made where it is not there.
      about: what makes the embeddings: 'checkpoint', 'preprocessing', 'dimensions', 'storage' (of
        storage.CHOICES), 'scale' and 'vectors' (whether items.parquet has a column of them). None: as in the
        folder.
      settle: (what the folder holds, about) -> what counts from here on; raises UserError where they do not
        suit each other. Not called for a new index.

    Raises:
      UserError: another process is at work there, the folder can not be written, or holds no index to change.
    """

    def __init__(
        self,
        folder: Path,
        about: dict[str, Any] | None = None,
        settle: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] | None = None,
    ):
        self.folder = folder
        if about is None and not any((folder / name).exists() for name in (ABOUT, JOURNAL)):
            raise UserError(f'{folder} holds no index; make one by --mode=embed --images=... --out={folder}')
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._journal = _locked(folder / JOURNAL)
        except (OSError, sqlite3.Error) as error:
            raise _refusal(folder, error) from error
        try:
            if is_changing(folder):
                self._move_into_place()
            there = self._load()
            if there is None and about is None:
                raise UserError(f'{folder} holds no index; make one by --mode=embed --images=... --out={folder}')
            self.about = settle(there, about) if there and about and settle else there or about
            self._write_about()
        except BaseException:
            self._journal.close()
            raise
        self._rows = storage.Rows(folder / EMBEDDINGS, self.about['storage'], self.about['dimensions'])
        # What a reader of the present index sees is never written over.
        visible = Index(folder).about['images'] if (folder / ABOUT).exists() else 0
        self._next = max(visible, 1 + self._one('SELECT coalesce(max(row), -1) FROM items'))
        self._saved = time.monotonic()

    def __enter__(self) -> 'Unfinished':
        return self

    def __exit__(self, *_: object) -> None:
        self.save()
        self._journal.close()

    def __len__(self) -> int:
        return self._one('SELECT count(*) FROM items')

    def sha256(self, path: str) -> str:
        """Returns the hash that the image of this path was embedded with, or ''."""
        return self._one('SELECT sha256 FROM items WHERE path = ?', path) or ''

    def add(self, items: list[Item], embeddings: np.ndarray) -> None:
        """Adds images, float32 [len(items), dimensions]; one of a path that is there takes its place."""
        stored = storage.encode(embeddings, self.about['storage'], self.about['scale'])
        self._rows.write(self._next, stored)
        for item in items:
            self._journal.execute('DELETE FROM unreadable WHERE path = ?', (item.path,))
            self._journal.execute('REPLACE INTO items VALUES (?, ?, ?, ?, ?, ?)', (self._next, *item))
            self._next += 1
        if time.monotonic() - self._saved > SECONDS:
            self.save()

    def leave_out(self, path: str, problem: str) -> None:
        """Notes an image that can not be read; what was embedded of its path before is removed."""
        self._journal.execute('DELETE FROM items WHERE path = ?', (path,))
        self._journal.execute('REPLACE INTO unreadable VALUES (?, ?)', (path, problem))

    def remove(self, unwanted: Callable[[str], bool]) -> int:
        """Removes the images of which unwanted(path) is true, the unreadable ones too; returns their number."""
        self._journal.create_function('unwanted', 1, unwanted)
        self._journal.execute('DELETE FROM unreadable WHERE unwanted(path)')
        return self._journal.execute('DELETE FROM items WHERE unwanted(path)').rowcount

    def unreadable(self) -> dict[str, str]:
        """Returns path -> what is wrong with it."""
        return dict(self._journal.execute('SELECT path, problem FROM unreadable ORDER BY path'))

    def save(self) -> None:
        """Commits the journal: what was added until now is not embedded again, whatever happens."""
        self._rows.sync()
        self._journal.commit()
        self._saved = time.monotonic()

    def finish(self, versions: dict[str, str]) -> None:
        """Makes this state the index of the folder, all at once to a reader and whatever kills the process.

        index.json holds what `about` says, 'images', 'revision' (another one for every state), 'changed'
        (UTC), 'versions' and 'unreadable' (path -> what is wrong).
        """
        self.save()
        number = len(self)
        holes = number != 1 + self._one('SELECT coalesce(max(row), -1) FROM items')
        compacted = new(self.folder / EMBEDDINGS)
        compacted.unlink(missing_ok=True)
        rows = storage.Rows(compacted, self.about['storage'], self.about['dimensions']) if holes else None
        schema = _COLUMNS
        if self.about['vectors']:
            schema = schema.append(pa.field('embedding', pa.list_(pa.float32(), self.about['dimensions'])))
        with parquet.ParquetWriter(new(self.folder / ITEMS), schema, compression='zstd') as writer:
            written = 0
            for group in self._groups():
                row, *columns = zip(*group, strict=True)
                if holes or self.about['vectors']:
                    stored = self._rows.read(np.array(row))
                if holes:
                    rows.write(written, stored)
                if self.about['vectors']:
                    vectors = pa.array(storage.decode(stored, self.about['scale']).reshape(-1))
                    columns.append(pa.FixedSizeListArray.from_arrays(vectors, self.about['dimensions']))
                writer.write_table(pa.table(columns, schema), row_group_size=len(row))
                written += len(row)
        if holes:
            rows.declare(number)
            rows.sync()
        self._write_new_about(
            {
                **self.about,
                'images': number,
                'revision': secrets.token_hex(8),
                'changed': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
                'versions': versions,
                'unreadable': self.unreadable(),
            }
        )
        self._move_into_place()
        self._journal.close()
        (self.folder / JOURNAL).unlink()
