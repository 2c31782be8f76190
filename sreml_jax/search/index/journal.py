"""The journal of an index: what is embedded and not yet in the finished index."""

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable
from sreml_jax.search.index import schema
from sreml_jax.search.index.reader import Item

JOURNAL = 'unfinished.sqlite'
_TABLES = """
    CREATE TABLE IF NOT EXISTS about (json TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS items (
        row INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, width INTEGER NOT NULL, height INTEGER NOT NULL,
        class TEXT, sha256 TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS unreadable (path TEXT PRIMARY KEY, problem TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS written (rows INTEGER NOT NULL, crc32 INTEGER NOT NULL);
"""


class Journal:
    """A database that one process has open. Changes count after `commit`.

    Args:
      folder: of the index; it exists.

    Raises:
      UserError: another process has it open, or it cannot be read or written. Every method raises this too.
    """

    def __init__(self, folder: Path):
        self.path = folder / JOURNAL
        with self._explained():
            self._database = sqlite3.connect(self.path, timeout=0)
            try:
                # The system releases the lock when the process ends, however it ends.
                self._database.execute('PRAGMA locking_mode = EXCLUSIVE')
                self._database.execute('BEGIN EXCLUSIVE')
                self._database.commit()
                self._database.executescript(_TABLES)
            except BaseException:
                self._database.close()
                raise

    def __len__(self) -> int:
        return self._one('SELECT count(*) FROM items')

    @property
    def rows(self) -> int:
        """1 + the greatest row number."""
        return 1 + self._one('SELECT coalesce(max(row), -1) FROM items')

    def about(self) -> dict[str, Any] | None:
        """Returns what makes the embeddings; None if the journal is empty."""
        text = self._one('SELECT json FROM about')
        if text is None:
            return None
        try:
            about = json.loads(text)
            problem = schema.problem(about, schema.MADE_BY)
        except (RecursionError, TypeError, ValueError) as error:
            problem = printable(error)
        if problem:
            raise self._unusable(problem)
        return about

    def write_about(self, about: dict[str, Any]) -> None:
        """Keeps what makes the embeddings."""
        self._run('DELETE FROM about')
        self._run('INSERT INTO about VALUES (?)', json.dumps(about))
        self.commit()

    def written_rows(self) -> tuple[int, int] | None:
        """Returns how many rows embeddings.npy had at the last commit, and their checksum, if it is known."""
        found = self._run('SELECT rows, crc32 FROM written').fetchone()
        if found and not all(type(value) is int for value in found):
            raise self._unusable('a row of it is damaged')
        return found

    def write_rows(self, rows: int, checksum: int) -> None:
        """Keeps what `written_rows` returns."""
        self._run('DELETE FROM written')
        self._run('INSERT INTO written VALUES (?, ?)', rows, checksum)

    def sha256(self, path: str) -> str:
        """Returns the hash that the image of this path was embedded with, or ''."""
        return self._one('SELECT sha256 FROM items WHERE path = ?', path) or ''

    def put(self, row: int, item: Item) -> None:
        """Adds an image; one of the same path gives way."""
        self._run('DELETE FROM unreadable WHERE path = ?', item.path)
        self._run('REPLACE INTO items VALUES (?, ?, ?, ?, ?, ?)', row, *item)

    def put_all(self, rows: Iterable[tuple], unreadable: dict[str, str]) -> None:
        """Adds the images (row, *item) of a finished index, and its unreadable ones."""
        with self._explained():
            self._database.executemany('INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)', rows)
            self._database.executemany('REPLACE INTO unreadable VALUES (?, ?)', unreadable.items())

    def leave_out(self, path: str, problem: str) -> None:
        """Notes an image, or a folder, that cannot be read; removes what was embedded of its path."""
        self._run('DELETE FROM items WHERE path = ?', path)
        self._run('REPLACE INTO unreadable VALUES (?, ?)', path, problem)

    def remove(self, unwanted: Callable[[str], bool]) -> int:
        """Removes the images, and the unreadable ones, if unwanted(path); returns how many images."""
        self.forget_unreadable(unwanted)
        return self._run('DELETE FROM items WHERE chosen(path)').rowcount

    def forget_unreadable(self, chosen: Callable[[str], bool]) -> None:
        """Drops the notes of `leave_out` if chosen(path)."""
        self._database.create_function('chosen', 1, chosen)
        self._run('DELETE FROM unreadable WHERE chosen(path)')

    def unreadable(self) -> dict[str, str]:
        """Returns path -> what is wrong with it."""
        with self._explained():
            return dict(self._database.execute('SELECT path, problem FROM unreadable ORDER BY path'))

    def groups(self, size: int) -> Iterator[list[tuple]]:
        """Yields the images (row, *item) in the order of their rows, `size` at a time."""
        cursor = self._run('SELECT * FROM items ORDER BY row')
        while True:
            with self._explained():
                group = cursor.fetchmany(size)
            if not group:
                return
            yield group

    def commit(self) -> None:
        """Returns when the changes would survive a power cut."""
        with self._explained():
            self._database.commit()

    def clear(self) -> None:
        """Forgets everything."""
        for table in ('about', 'items', 'unreadable', 'written'):
            self._run(f'DELETE FROM {table}')
        self.commit()

    def close(self) -> None:
        """Drops what is not committed, and lets other processes in."""
        self._database.close()

    def _run(self, query: str, *values: Any) -> sqlite3.Cursor:
        with self._explained():
            return self._database.execute(query, values)

    def _one(self, query: str, *values: Any) -> Any:
        """Returns the one value that a query asks for, or None."""
        with self._explained():
            found = self._database.execute(query, values).fetchone()
        return found and found[0]

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, sqlite3.Warning, OSError, OverflowError, UnicodeError) as error:
            if 'locked' in str(error):
                raise UserError(f'another process is at work in {self.path.parent}') from error
            raise self._unusable(printable(error)) from error

    def _unusable(self, why: str) -> UserError:
        return UserError(
            f'{self.path} cannot be read and written ({why}); make room if the disk is full, or take another '
            '--out; if the file is damaged, remove it, and what the finished index lacks is embedded again'
        )
