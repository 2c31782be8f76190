"""The file of an index's embeddings: rows appended behind the header of an .npy file."""

import os
import zlib
from pathlib import Path

import numpy as np

from sreml_jax.runtime.errors import UserError


class Rows:
    """The rows of an .npy file, [rows, width]: written at any place, and read again.

    The header counts the rows only after `declare`; numpy leaves room in it for any number.

    Args:
      path: made, without rows, if it is not there.
      storage: one of `quantization.CHOICES`.
      width: values in a row.

    Raises:
      UserError: the file has another header.
    """

    def __init__(self, path: Path, storage: str, width: int):
        self.path, self.dtype, self.width = path, np.dtype(storage), width
        self.row_bytes = self.dtype.itemsize * width
        if not path.exists() or not path.stat().st_size:  # a process may die between the two
            path.touch()
            self.declare(0)
        try:
            with path.open('rb') as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError('another version')
                shape, column_major, dtype = np.lib.format.read_array_header_1_0(file)
                self._start = file.tell()
            if column_major or dtype != self.dtype or shape[1:] != (width,):
                raise ValueError(f'{dtype} {shape} instead of {self.dtype} [rows, {width}]')
        except OSError:
            raise
        except Exception as error:  # numpy raises all sorts of it
            raise damaged(path, f'its header is wrong: {error}') from error

    @property
    def present(self) -> int:
        """The rows that the file holds, declared or not."""
        return (self.path.stat().st_size - self._start) // self.row_bytes

    def declare(self, rows: int) -> None:
        """Writes the header: the array has `rows` rows from now on."""
        header = {'descr': self.dtype.str, 'fortran_order': False, 'shape': (rows, self.width)}
        with self.path.open('r+b') as file:
            np.lib.format.write_array_header_1_0(file, header)

    def write(self, first: int, stored: np.ndarray) -> None:
        """Writes rows [n, width] from row `first` on."""
        with self.path.open('r+b') as file:
            file.seek(self._start + first * self.row_bytes)
            file.write(stored.tobytes())

    def sync(self) -> None:
        """Returns when what was written would survive a power cut."""
        with self.path.open('rb') as file:
            os.fsync(file.fileno())

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Returns rows [n] in this order, [n, width]; nothing of the file stays mapped."""
        return np.array(self._mapped(int(rows.max(initial=-1)) + 1)[rows])

    def checksum(self, first: int, last: int, before: int = 0) -> int:
        """Returns the checksum of the rows up to `last`; `before` is that of the rows up to `first`."""
        return checksum(self._mapped(last)[first:], before)

    def _mapped(self, rows: int) -> np.ndarray:
        if not rows:
            return np.empty((0, self.width), self.dtype)
        if rows > self.present:
            raise damaged(self.path, f'it has {self.present:,} rows instead of {rows:,}')
        return np.memmap(self.path, self.dtype, 'r', self._start, (rows, self.width))


def checksum(stored: np.ndarray, before: int = 0) -> int:
    """Returns the CRC-32 of rows [n, width]; `before` is that of the rows in front of them."""
    return zlib.crc32(stored.reshape(-1).view(np.uint8).data, before)


def damaged(path: Path, why: str) -> UserError:
    """Returns the sentence about a damaged file of an index. Nothing repairs it, and nothing writes to it."""
    return UserError(f'{path} is damaged ({why}); embed its images into another folder')
