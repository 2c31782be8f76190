"""Datasets in retrieval splits. The only folder to import tensorflow, and only when a dataset is loaded."""

import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from sreml_jax.data import held_out
from sreml_jax.data.dataset import Dataset, Extent, images_per_epoch
from sreml_jax.data.held_out import HeldOut
from sreml_jax.data.sources import layout
from sreml_jax.data.tensorflow_import import import_tensorflow
from sreml_jax.runtime.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from sreml_jax.data.sources.builder import RetrievalBuilder

log = logging.getLogger(__name__)

TABLES = ('.csv', '.parquet')  # that list a user's own images
NAMES = ('car', 'cub', 'sop', 'isc', 'folder', 'glyphs')


def load(config: ConfigDict) -> Dataset:
    """Returns the dataset that a run asks for, prepared first where it is not yet.

    Raises:
      UserError: the copy is missing, incomplete or unreadable, or the config asks for what it has not.
    """
    builder = prepared(config)
    from sreml_jax.data.pipeline import TfdsDataset

    dataset = TfdsDataset(builder, config)
    return HeldOut(dataset, config.validation_share) if config.validation_share else dataset


def prepared(config: ConfigDict) -> 'RetrievalBuilder':
    """Returns the builder of the dataset, prepared; see `load`."""
    builder = found(config)
    builder.prepare()
    for note in builder.info.metadata['notes']:
        log.warning('%s: %s.', config.data_name, note)
    return builder


def found(config: ConfigDict) -> 'RetrievalBuilder':
    """Returns the builder of the dataset, whose images are listed but perhaps not prepared; see `load`."""
    name = config.data_name
    if name not in NAMES:
        raise UserError(
            f'unknown data_name {name!r}{did_you_mean(name, NAMES)}; known are {", ".join(NAMES)}.'
        )
    if config.crop_type not in ('uncropped', 'cropped'):
        raise UserError(f"crop_type is {config.crop_type!r}; it must be 'uncropped' or 'cropped'.")
    import_tensorflow()
    source = source_of(config) or Path()
    kind = 'table' if source.is_file() else name
    module = importlib.import_module(f'sreml_jax.data.sources.{kind}')
    return getattr(module, kind.capitalize())(source, config)


def extent(config: ConfigDict) -> Extent:
    """Prepares the dataset where it is not yet, and returns how much it has to train on; see `load`."""
    metadata = prepared(config).info.metadata
    labels = np.unique(metadata['labels']['train'], return_inverse=True)[1]
    if config.validation_share:
        labels = labels[~np.isin(labels, held_out.choose(int(labels.max()) + 1, config.validation_share))]
        labels = np.unique(labels, return_inverse=True)[1]
    sides = (metadata['width']['train'] + metadata['height']['train']) / 2
    images = images_per_epoch(labels, config.max_images_per_class)
    return Extent(images, int(labels.max()) + 1, round(sides / len(metadata['labels']['train'])))


def summary(config: ConfigDict) -> str:
    """Prepares the dataset where that is not yet done, and returns a table of what is in it; see `load`."""
    builder = prepared(config)
    metadata = builder.info.metadata
    columns = ('split', 'images', 'classes', 'smallest', 'largest', 'mean size', 'megabytes')
    rows = [columns]
    for split, labels in metadata['labels'].items():
        sizes = sorted(np.unique(labels, return_counts=True)[1].tolist())
        width, height = (metadata[side][split] / len(labels) for side in ('width', 'height'))
        rows.append(
            (
                split,
                f'{len(labels):,}',
                f'{len(sizes):,}',
                f'{sizes[0]:,}',
                f'{sizes[-1]:,}',
                f'{width:.0f} x {height:.0f}',
                f'{metadata["bytes"][split] / 1e6:,.1f}',
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    mean, std = (' '.join(f'{value:.4f}' for value in metadata[key]) for key in ('mean', 'std'))
    return '\n'.join(
        [
            f'{builder.name}, prepared in {builder.data_dir}',
            *lines,
            f'RGB mean {mean}, deviation {std} (training images, 0..1)',
            *metadata['notes'],
        ]
    )


def source_of(config: ConfigDict) -> Path | None:
    """Returns where the user's copy lies: data_dir/<data_name> if there is such a folder, else data_dir.

    A user's own images lie in data_dir itself, where `folder` may be a class, or are listed in a table. None:
    the program draws the images.

    Raises:
      UserError: there is nothing.
    """
    if config.data_name == 'glyphs':
        return None
    folder = Path(config.data_dir).expanduser()
    own = folder if config.data_name == 'folder' else folder / config.data_name
    if own.is_file() and config.data_name == 'folder':
        if own.suffix.lower() in TABLES:
            return own
        raise UserError(
            f'{own} is a file; --config.data_dir takes a folder of images, or a .csv or .parquet file with '
            'the columns path and label'
        )
    if config.download and not own.is_dir() and not (folder.is_dir() and any(folder.iterdir())):
        return own  # to be made
    source = own if own.is_dir() else folder
    if source.is_dir() and any(source.iterdir()):
        return source
    if config.data_name != 'folder':
        advice = importlib.import_module(f'sreml_jax.data.sources.{config.data_name}').ADVICE
        raise layout.absent(config.data_name, source, advice)
    kind = 'file' if source.suffix.lower() in TABLES else 'folder'
    fault = f'the folder {source} is empty' if source.is_dir() else f'there is no {kind} {source}'
    raise UserError(
        f'{fault}; give that of your images as --config.data_dir=DIR, or a .csv or .parquet file that '
        'lists them'
    )
