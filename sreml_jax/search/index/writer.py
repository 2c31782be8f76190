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

from sreml_jax.retrieval import quantization
from sreml_jax.runtime.errors import UserError
from sreml_jax.search.index import compatibility
from sreml_jax.search.index.reader import ABOUT, EMBEDDINGS, ITEMS, Index, Item, is_changing, new, read_about
from sreml_jax.search.index.rows import Rows

JOURNAL = 'unfinished.sqlite'
_SECONDS = 1.0  # between two commits of the journal
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
      wanted: what makes the embeddings: 'checkpoint' (with its 'fingerprint'), 'preprocessing',
        'dimensions', 'bound' (see quantization.scale_of), 'storage' (of quantization.CHOICES) and 'vectors'
        (whether items.parquet has a column of them); None leaves the last two as they are. None: images
        are only removed.

    Raises:
      UserError: the folder holds an index of another kind, or none to remove from, cannot be written, or is
        another process's at present.
    """

    def __init__(self, folder: Path, wanted: dict[str, Any] | None = None):
        self.folder = folder
        none = UserError(f'{folder} holds no index; make one by --mode=embed --images=... --out={folder}')
        if wanted is None and not any((folder / name).exists() for name in (ABOUT, JOURNAL)):
            raise none
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._journal = _locked(folder / JOURNAL)
        except sqlite3.OperationalError as error:
            raise UserError(f'another process is at work in {folder}, or it cannot be written') from error
        except (OSError, sqlite3.Error) as error:
            raise UserError(f'{folder} cannot be written ({error}); take another --out') from error
        try:
            if is_changing(folder):
                self._move_into_place()
            there = self._load()
            if there is None and wanted is None:
                raise none
            self.about = compatibility.settled(folder, there, wanted)
            self._write_about()
        except BaseException:
            self._journal.close()
            raise
        self._rows = Rows(folder / EMBEDDINGS, self.about['storage'], self.about['dimensions'])
        # What a reader of the present index sees is never written over.
        visible = read_about(folder)['images'] if (folder / ABOUT).exists() else 0
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
        stored = quantization.encode(embeddings, self.about['storage'], self.about['scale'])
        self._rows.write(self._next, stored)
        for item in items:
            self._journal.execute('DELETE FROM unreadable WHERE path = ?', (item.path,))
            self._journal.execute('REPLACE INTO items VALUES (?, ?, ?, ?, ?, ?)', (self._next, *item))
            self._next += 1
        if time.monotonic() - self._saved > _SECONDS:
            self.save()

    def leave_out(self, path: str, problem: str) -> None:
        """Notes an image, or a folder, that cannot be read; what was embedded of its path is removed."""
        self._journal.execute('DELETE FROM items WHERE path = ?', (path,))
        self._journal.execute('REPLACE INTO unreadable VALUES (?, ?)', (path, problem))

    def remove(self, unwanted: Callable[[str], bool]) -> int:
        """Removes the images, and the unreadable ones, of which unwanted(path) is true; returns how many."""
        self._journal.create_function('unwanted', 1, unwanted)
        self._journal.execute('DELETE FROM unreadable WHERE unwanted(path)')
        return self._journal.execute('DELETE FROM items WHERE unwanted(path)').rowcount

    def forget_unreadable(self, concerned: Callable[[str], bool]) -> None:
        """Drops the notes of `leave_out` on paths of which concerned(path) is true."""
        self._journal.create_function('concerned', 1, concerned)
        self._journal.execute('DELETE FROM unreadable WHERE concerned(path)')

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
        rows = Rows(compacted, self.about['storage'], self.about['dimensions']) if holes else None
        schema = _COLUMNS
        if self.about['vectors']:
            schema = schema.append(pa.field('embedding', pa.list_(pa.float32(), self.about['dimensions'])))
        items, written = new(self.folder / ITEMS), 0
        with parquet.ParquetWriter(items, schema, compression='zstd') as writer:
            for group in self._groups():
                row, *columns = zip(*group, strict=True)
                if holes or self.about['vectors']:
                    stored = self._rows.read(np.array(row))
                if rows:
                    rows.write(written, stored)
                if self.about['vectors']:
                    vectors = pa.array(quantization.decode(stored, self.about['scale']).reshape(-1))
                    columns.append(pa.FixedSizeListArray.from_arrays(vectors, self.about['dimensions']))
                writer.write_table(pa.table(columns, schema), row_group_size=len(row))
                written += len(row)
        _sync(items)
        if rows:
            rows.declare(number)
            rows.sync()
        changed = {
            'images': number,
            'revision': secrets.token_hex(8),
            'changed': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
            'versions': versions,
            'unreadable': self.unreadable(),
        }
        temporary = self.folder / (ABOUT + '.tmp')
        temporary.write_text(json.dumps({**self.about, **changed}, indent=1) + '\n')
        _sync(temporary)
        temporary.replace(new(self.folder / ABOUT))  # from here on a killed process is finished by the next
        self._move_into_place()
        (self.folder / JOURNAL).unlink()

    def _move_into_place(self) -> None:
        """Puts the files of a whole new state under their names, and index.json last; may be repeated."""
        about = json.loads(new(self.folder / ABOUT).read_text())
        if (compacted := new(self.folder / EMBEDDINGS)).exists():
            compacted.replace(self.folder / EMBEDDINGS)
        rows = Rows(self.folder / EMBEDDINGS, about['storage'], about['dimensions'])
        rows.declare(about['images'])
        rows.sync()
        if (items := new(self.folder / ITEMS)).exists():
            items.replace(self.folder / ITEMS)
        for table in ('about', 'items', 'unreadable'):  # the journal of a state that is no longer the next
            self._journal.execute(f'DELETE FROM {table}')
        self._journal.commit()
        new(self.folder / ABOUT).replace(self.folder / ABOUT)

    def _load(self) -> dict[str, Any] | None:
        """Returns what the folder's embeddings are made by; an empty journal becomes that of the index."""
        if found := self._one('SELECT json FROM about'):
            return json.loads(found)
        if not (self.folder / ABOUT).exists():
            if (self.folder / EMBEDDINGS).exists():
                raise UserError(f'{self.folder} holds an {EMBEDDINGS} but no {ABOUT}; take another --out')
            return None
        index, first = Index(self.folder), 0
        names = _COLUMNS.names
        for batch in parquet.ParquetFile(self.folder / ITEMS).iter_batches(_GROUP_ROWS, columns=names):
            columns = batch.to_pydict()
            rows = zip(range(first, first + len(batch)), *(columns[name] for name in names), strict=True)
            self._journal.executemany('INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)', rows)
            first += len(batch)
        self._journal.executemany('INSERT INTO unreadable VALUES (?, ?)', index.about['unreadable'].items())
        return {name: index.about[name] for name in compatibility.FIELDS}

    def _write_about(self) -> None:
        self._journal.execute('DELETE FROM about')
        self._journal.execute('INSERT INTO about VALUES (?)', (json.dumps(self.about),))
        self._journal.commit()

    def _groups(self) -> Iterator[list[tuple]]:
        """Yields the rows of the table of items, as many at a time as make a row group."""
        size = max(1, min(_GROUP_ROWS, _GROUP_BYTES // (4 * self.about['dimensions'])))
        cursor = self._journal.execute('SELECT * FROM items ORDER BY row')
        while group := cursor.fetchmany(size):
            yield group

    def _one(self, query: str, *values: Any) -> Any:
        """Returns the one value that a query is for, or None."""
        found = self._journal.execute(query, values).fetchone()
        return found and found[0]


def _locked(path: Path) -> sqlite3.Connection:
    """Opens the journal for this process alone; the system frees it when the process ends, however."""
    journal = sqlite3.connect(path, timeout=0)
    try:
        journal.execute('PRAGMA locking_mode = EXCLUSIVE')
        journal.execute('BEGIN EXCLUSIVE')
        journal.commit()
        journal.executescript(_TABLES)
    except BaseException:
        journal.close()
        raise
    return journal


def _sync(path: Path) -> None:
    with path.open('rb') as file:
        os.fsync(file.fileno())
