"""A finished index, as it is read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pyarrow import parquet

from sreml_jax.runtime.errors import UserError

EMBEDDINGS, ITEMS, ABOUT = 'embeddings.npy', 'items.parquet', 'index.json'


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
      about: index.json; see `Unfinished.finish`.
      embeddings: float32, float16 or int8 [images, d], memory-mapped; to be multiplied by `scale`.
      scale: float.

    Raises:
      UserError: there is no whole index in the folder.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder).expanduser()
        self.about = read_about(self.folder)
        self.scale: float = self.about['scale']
        try:
            embeddings = np.load(self.folder / EMBEDDINGS, mmap_mode='r', allow_pickle=False)
            self._items = parquet.ParquetFile(self.folder / ITEMS)
        except (OSError, ValueError) as error:
            raise UserError(f'{self.folder} is no whole index ({error}); embed its images again') from error
        self.embeddings = embeddings[: len(self)]
        if is_changing(self.folder) or read_about(self.folder) != self.about:
            raise UserError(f'{self.folder} is being changed at this moment; try again, or embed again')
        wanted = self.about['storage'], (len(self), self.about['dimensions']), len(self)
        if (embeddings.dtype, self.embeddings.shape, self._items.metadata.num_rows) != wanted:
            raise UserError(f'{self.folder} is no whole index: its files disagree; embed its images again')

    def __len__(self) -> int:
        return self.about['images']

    def items(self, rows: Sequence[int] | np.ndarray) -> list[Item]:
        """Returns what is known of the images in these rows, in the order asked for."""
        metadata = self._items.metadata
        counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        ends = np.cumsum([0, *counts])
        groups = np.searchsorted(ends, rows, side='right') - 1
        found: dict[int, Item] = {}
        for group in np.unique(groups):
            table = self._items.read_row_group(group, columns=['path', 'width', 'height', 'class', 'sha256'])
            chosen = np.asarray(rows)[groups == group]
            values = table.take(chosen - ends[group]).to_pydict().values()
            found.update(zip(chosen.tolist(), map(Item._make, zip(*values, strict=True)), strict=True))
        return [found[int(row)] for row in rows]


def read_about(folder: Path) -> dict[str, Any]:
    """Returns the index.json of an index; raises UserError where there is none."""
    try:
        return json.loads((folder / ABOUT).read_text())
    except FileNotFoundError:
        begun = (folder / 'unfinished.sqlite').exists()
        advice = 'it is unfinished: embed again and it goes on' if begun else 'make one by --mode=embed'
        raise UserError(f'{folder} holds no index; {advice}') from None
    except (OSError, ValueError) as error:
        raise UserError(f'{folder / ABOUT} cannot be read ({error}); embed its images again') from error


def new(path: Path) -> Path:
    """Returns where the next state of a file of an index is written before it is moved into place."""
    return path.with_name(path.name + '.new')


def is_changing(folder: Path) -> bool:
    """Returns whether a new state of the index is whole, but not all of it in place."""
    return new(folder / ABOUT).exists()
