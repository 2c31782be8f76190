"""Prepared records to batches of decoded images, through tf.data."""

import atexit
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from ml_collections import ConfigDict

from sreml_jax.data import decode
from sreml_jax.data.dataset import Dataset
from sreml_jax.data.sources.builder import RetrievalBuilder
from sreml_jax.model.weights import torchvision
from sreml_jax.runtime import machine
from sreml_jax.runtime.errors import RunError, UserError

tf.config.set_visible_devices([], 'GPU')  # they are JAX's


class _Running:
    """An iterator over a tf.data dataset that is stopped before the interpreter ends.

    Its threads call back into Python; one that does so while the interpreter is taken down hangs the process.
    """

    _all: ClassVar['weakref.WeakSet[_Running]'] = weakref.WeakSet()

    def __init__(self, dataset: tf.data.Dataset):
        self.iterator = dataset.as_numpy_iterator()
        self._all.add(self)

    @classmethod
    def stop_all(cls) -> None:
        for running in list(cls._all):
            running.iterator = iter(())


atexit.register(_Running.stop_all)


class TfdsDataset(Dataset):
    """A prepared dataset: images are decoded as they are asked for, and kept in memory where they fit.

    Args:
      builder: of a prepared dataset.
      config: of the run.

    Raises:
      UserError: bounding boxes are asked for of a dataset that has none.
    """

    def __init__(self, builder: RetrievalBuilder, config: ConfigDict):
        metadata = builder.info.metadata
        if config.crop_type == 'cropped' and not metadata['boxes']:
            raise UserError(f'{builder.name} has no bounding boxes: crop_type=cropped is for car and cub.')
        self.name = builder.name
        self.notes = tuple(metadata['notes'])
        self.max_images_per_class = config.max_images_per_class
        pretrained = config.weights != 'none'
        mean, std = (torchvision.MEAN, torchvision.STD) if pretrained else (metadata['mean'], metadata['std'])
        self.mean = np.asarray(config.mean or mean, np.float32)
        self.std = np.asarray(config.std or std, np.float32)

        names = metadata['classes']
        self.labels = {split: np.asarray(labels, np.int32) for split, labels in metadata['labels'].items()}
        self.class_names = {
            split: {int(label): names[label] for label in np.unique(labels)}
            for split, labels in self.labels.items()
        }
        trained, labels = np.unique(self.labels['train'], return_inverse=True)
        self.labels['train'] = labels.astype(np.int32)
        self.class_names['train'] = {i: names[label] for i, label in enumerate(trained)}

        self._records = Records(builder, config.image_size, config.crop_type == 'cropped')
        self._kept: dict[str, tuple[np.ndarray, np.ndarray]] | None = None
        decoded = 3 * config.image_size**2 * sum(map(len, self.labels.values()))
        if config.cache == 'on' or (config.cache == 'auto' and decoded <= machine.free_memory() / 2):
            self._kept = {
                split: (
                    np.empty((len(x), config.image_size, config.image_size, 3), np.uint8),
                    np.zeros(len(x), bool),
                )
                for split, x in self.labels.items()
            }

    def images(self, split: str, indices: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """See `Dataset.images`. Raises RunError, naming the file, where a record can't be decoded."""
        if self._kept is None:
            yield from self._records.batches(split, indices, batch_size)
            return
        kept, ready = self._kept[split]
        # An image is decoded when it first comes up, so that no run waits for all of them.
        first = np.sort(np.unique(indices, return_index=True)[1])
        first = first[~ready[indices[first]]]
        decoded = self._records.batches(split, indices[first], 1)
        for start in range(0, len(indices), batch_size):
            chosen = indices[start : start + batch_size]
            new = indices[first[np.searchsorted(first, start) : np.searchsorted(first, start + batch_size)]]
            for index in new:
                kept[index] = next(decoded)[0]
            ready[new] = True
            yield kept[chosen]


class Records:
    """The records of a prepared dataset, read in any order and decoded in parallel.

    Args:
      builder: of a prepared dataset.
      size: pixels of both sides of the images made.
      crop: whether the images are cut to their boxes.
    """

    def __init__(self, builder: RetrievalBuilder, size: int, crop: bool):
        self._files = {
            split: [str(path) for path in info.filepaths] for split, info in builder.info.splits.items()
        }
        self._features = builder.info.features
        self._size = size
        self._crop = crop
        # Traced once, not for every pass.
        self._decode = tf.function(self._image, input_signature=[tf.TensorSpec([], tf.string)])

    def batches(self, split: str, indices: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """Yields uint8 [<= batch_size, size, size, 3] in the order of `indices`; see `TfdsDataset.images`."""
        if not len(indices):
            return
        try:
            source = ArrayRecordDataSource(self._files[split])
        except RuntimeError as error:
            raise self._damaged(split, f'the records of {split} cannot be read: {error}') from error

        def read(chosen: np.ndarray) -> np.ndarray:
            return np.array(source.__getitems__(chosen.tolist()), object)

        options = tf.data.Options()
        options.deterministic = True
        options.threading.private_threadpool_size = machine.cores()
        options.threading.max_intra_op_parallelism = 1  # images go in parallel, not parts of one
        batches = (
            tf.data.Dataset.from_tensor_slices(np.asarray(indices, np.int64))
            .batch(64)  # records read at once
            .map(lambda chosen: tf.ensure_shape(tf.numpy_function(read, [chosen], tf.string), [None]))
            .unbatch()
            .map(self._decode, num_parallel_calls=machine.cores())
            .batch(batch_size)
            .prefetch(max(2, 64 // batch_size))
            .with_options(options)
        )
        running = _Running(batches)
        for start in range(0, len(indices), batch_size):
            try:
                batch = next(running.iterator)
            except tf.errors.OpError as error:
                chosen = [int(i) for i in indices[start : start + batch_size]]
                raise self._damaged(split, self._culprit(source, split, chosen)) from error
            yield batch

    def _image(self, record: tf.Tensor) -> tf.Tensor:
        """Decodes one record to uint8 [size, size, 3]."""
        example = self._features.deserialize_example(record, decoders={'image': tfds.decode.SkipDecoding()})
        encoded = example['image']
        left, top, right, bottom = tf.unstack(example['box'])

        def jpeg() -> tf.Tensor:
            # Preparation saw that the file is whole; a missing end marker is all that can be truncated.
            as_pil = {'channels': 3, 'dct_method': 'INTEGER_ACCURATE', 'try_recover_truncated': True}
            if not self._crop:
                return tf.io.decode_jpeg(encoded, **as_pil)
            return tf.io.decode_and_crop_jpeg(encoded, [top, left, bottom - top, right - left], **as_pil)

        def png() -> tf.Tensor:
            return crop(tf.io.decode_png(encoded, channels=3))

        def other() -> tf.Tensor:
            return crop(
                tf.numpy_function(lambda e: np.asarray(decode.open_picture(e, '')[0]), [encoded], tf.uint8)
            )

        def crop(picture: tf.Tensor) -> tf.Tensor:
            return picture[top:bottom, left:right] if self._crop else picture

        picture = tf.cond(example['plain'], lambda: tf.cond(tf.io.is_jpeg(encoded), jpeg, png), other)
        return resized(tf.ensure_shape(picture, [None, None, 3]), self._size)

    def _culprit(self, source: ArrayRecordDataSource, split: str, chosen: list[int]) -> str:
        """Returns which of the chosen records can't be read or decoded, and why."""
        for index in chosen:
            try:
                [record] = source.__getitems__([index])
                self._decode(record)
            except RuntimeError as error:
                return f'record {index} of {split} cannot be read: {error}'
            except tf.errors.OpError as error:
                example = self._features.deserialize_example_np(
                    record, decoders={'image': tfds.decode.SkipDecoding()}
                )
                return f'{example["file_name"].decode()}: {error.message}'
        return f'a record of {split} cannot be read'

    def _damaged(self, split: str, what: str) -> RunError:
        folder = Path(self._files[split][0]).parent
        return RunError(f'{what}; the prepared copy is damaged: remove {folder}, and it is made anew')


def resized(picture: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes uint8 [height, width, 3] to [size, size, 3], antialiased bilinear, rounded: PIL's BILINEAR."""
    smaller = tf.reduce_any(tf.shape(picture)[:2] > size)
    pixels = tf.cond(
        smaller,
        lambda: tf.image.resize(picture, (size, size), antialias=True),
        # Nothing to antialias; this takes half the time.
        lambda: tf.raw_ops.ResizeBilinear(images=picture[None], size=(size, size), half_pixel_centers=True)[
            0
        ],
    )
    return tf.cast(tf.ensure_shape(pixels, [size, size, 3]) + 0.5, tf.uint8)
