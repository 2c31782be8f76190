"""What all prepared datasets share: pictures found in a source, each decoded once, kept as TFDS records."""

import abc
import collections
import contextlib
import fcntl
import functools
import hashlib
import itertools
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from ml_collections import ConfigDict

from sreml_jax.data import decode
from sreml_jax.errors import UserError

_SHOWN = 20  # at most so many bad files are named in a message
_In, _Out = TypeVar('_In'), TypeVar('_Out')


class Example(NamedTuple):
    """One image of a split.

    Attributes:
      path: of the file; only a name where the builder draws its images itself.
      label: name of the class.
      box: left, top, right, bottom in pixels, right and bottom exclusive; None where the dataset has no boxes.
    """

    path: Path
    label: str
    box: tuple[int, int, int, int] | None = None


class RetrievalBuilder(tfds.core.GeneratorBasedBuilder):
    """Base of the datasets: a subclass finds the examples, this class prepares them.

    A prepared copy belongs to one state of the source: its folder is named after a hash of the listing (names,
    sizes, times, labels, boxes), so that a source that changed is prepared anew and any other is found at once.

    Args:
      source: folder in which the user's copy lies.
      config: of the run; `self.options` to the subclass.

    Raises:
      UserError: no copy of the dataset lies there, or images of it are missing and `allow_missing` is off.
    """

    VERSION = tfds.core.Version('1.0.0')

    def __init__(self, source: Path, config: ConfigDict):
        self.source = Path(source).expanduser().resolve()
        self.options = config
        super().__init__(
            file_format='array_record',
            data_dir=Path(config.prepared_dir).expanduser(),
            config=tfds.core.BuilderConfig(name=self.fingerprint(), description=f'Prepared from {source}'),
        )

    @abc.abstractmethod
    def find_examples(self, source: Path) -> dict[str, list[Example]]:
        """Lists the images of each split: 'train', and either 'test' or both 'query' and 'gallery'.

        Images that the dataset's own lists name but that are not on disk belong in it too: the base counts them.

        Raises:
          UserError: this folder holds no copy of the dataset.
        """

    def encoded(self, example: Example) -> bytes:
        """Returns the picture's file as it is found."""
        return example.path.read_bytes()

    @functools.cached_property
    def examples(self) -> dict[str, list[Example]]:
        """The images that are there, by split."""
        return self._listing[0]

    @property
    def notes(self) -> tuple[str, ...]:
        """What every table of results must say of this copy of the data."""
        return tuple(self.info.metadata['notes'])

    def fingerprint(self) -> str:
        """Returns the name of this state of the source."""
        return self._listing[1]

    @functools.cached_property
    def _listing(self) -> tuple[dict[str, list[Example]], str, int]:
        """(examples by split, their hash, number of missing images)."""
        found = self.find_examples(self.source)
        digest = hashlib.sha256(f'{self.source} {self.VERSION}'.encode())
        missing = []
        for split, examples in found.items():
            digest.update(f'{split}\n'.encode())
            for i, example in enumerate(examples):
                try:
                    state = os.stat(example.path)
                except FileNotFoundError:
                    missing.append(example.path)
                    examples[i] = None
                    continue
                line = (*example, state.st_size, state.st_mtime_ns)
                digest.update(f'{line}\n'.encode())
            found[split] = [example for example in examples if example]
        if missing and not self.options.allow_missing:
            raise UserError(
                f'{self.name}: {len(missing):,} of the listed images are missing from {self.source}, the first '
                f'{_named(missing)}; complete the copy, or pass --config.allow_missing=True to go on without them.'
            )
        for split, examples in found.items():
            if not examples:
                raise UserError(f'{self.name}: no images for {split} in {self.source}.')
        return found, digest.hexdigest()[:16], len(missing)
