"""The file of an index's embeddings: rows appended behind the header of an .npy file."""

import os
from pathlib import Path

import numpy as np


class Rows:
    """The rows of an .npy file, [rows, width], to be written at any place and read again.

    The header tells of them only when `declare` is called; numpy leaves room in it for any number.

    Args:
      path: made, with no rows, where it is not there.
      storage: one of `quantization.CHOICES`.
      width: numbers in a row.
    """

    def __init__(self, path: Path, storage: str, width: int):
        self.path, self.dtype, self.width = path, np.dtype(storage), width
        if not path.exists():
            path.touch()
            self.declare(0)
        with path.open('rb') as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            self._start = file.tell()

    def declare(self, rows: int) -> None:
        """Writes the header: so many rows there are from now on."""
        header = {'descr': self.dtype.str, 'fortran_order': False, 'shape': (rows, self.width)}
        with self.path.open('r+b') as file:
            np.lib.format.write_array_header_1_0(file, header)

    def write(self, first: int, stored: np.ndarray) -> None:
        """Writes rows [n, width] from row `first` on."""
        with self.path.open('r+b') as file:
            file.seek(self._start + first * self.dtype.itemsize * self.width)
            file.write(stored.tobytes())

    def sync(self) -> None:
        """Returns when what was written would survive a power cut."""
        with self.path.open('rb') as file:
            os.fsync(file.fileno())

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Returns rows [n] in this order, [n, width]; nothing of the file stays mapped."""
        shape = (int(rows.max(initial=-1)) + 1, self.width)
        if not shape[0]:
            return np.empty((0, self.width), self.dtype)
        return np.array(np.memmap(self.path, self.dtype, 'r', self._start, shape)[rows])
