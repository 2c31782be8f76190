"""Turns prepared records into batches of decoded images, by tf.data."""

import atexit
import collections
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from ml_collections import ConfigDict

from sreml_jax.data import decode, tf_pictures
from sreml_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset
from sreml_jax.data.sources.builder import RetrievalBuilder
from sreml_jax.runtime import machine
from sreml_jax.runtime.errors import RunError, UserError

_READ = 64  # records at a time


class _Running:
    """An iterator over a tf.data dataset that stops before the interpreter ends.

    Its threads call Python; a call while the interpreter shuts down would hang the process.
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
    """A prepared dataset: decodes an image when it is first needed, and keeps all in memory if they fit.

    Args:
      builder: builder of a prepared dataset.
      config: config of the run.

    Raises:
      UserError: the config crops to bounding boxes, and the dataset has none.
    """

    def __init__(self, builder: RetrievalBuilder, config: ConfigDict):
        metadata = builder.info.metadata
        if config.crop_type == 'cropped' and not metadata['boxes']:
            raise UserError(f'{builder.name} has no bounding boxes: crop_type=cropped is for car and cub.')
        self.name = builder.name
        self.notes = tuple(metadata['notes'])
        self.max_images_per_class = config.max_images_per_class
        pretrained = config.weights != 'none'
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if pretrained else (metadata['mean'], metadata['std'])
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

    def read(self, split: str, parts: Iterable[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
        """See `Dataset.read`. Raises RunError, which names the file, for a record that cannot be decoded."""
        if self._kept is None:
            yield from self._records.batches(split, parts, batch_size)
            return
        kept, ready = self._kept[split]
        for part in parts:
            # An image is decoded when it is first drawn, so that no run waits for all of them.
            first = np.sort(np.unique(part, return_index=True)[1])
            first = first[~ready[part[first]]]
            decoded = self._records.batches(split, [part[first]], 1)
            for start in range(0, len(part), batch_size):
                here = slice(*np.searchsorted(first, (start, start + batch_size)))
                for index in part[first[here]]:
                    kept[index] = next(decoded)[0]
                    ready[index] = True
                yield kept[part[start : start + batch_size]]


class Records:
    """Reads the records of a prepared dataset in any order and decodes them in parallel.

    Args:
      builder: builder of a prepared dataset.
      size: height and width of the decoded images, in pixels.
      crop: whether images are cut to their boxes.
    """

    def __init__(self, builder: RetrievalBuilder, size: int, crop: bool):
        self._files = {
            split: [str(path) for path in info.filepaths] for split, info in builder.info.splits.items()
        }
        self._features = builder.info.features
        self._size = size
        self._crop = crop
        # tf.function traces it once for all passes.
        self._decode = tf.function(self._image, input_signature=[tf.TensorSpec([], tf.string)])

    def batches(self, split: str, parts: Iterable[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
        """Yields uint8 [<= batch_size, size, size, 3] in the order of the parts; see `TfdsDataset.read`."""
        try:
            source = ArrayRecordDataSource(self._files[split])
        except RuntimeError as error:
            raise self._damaged(split, f'the records of {split} cannot be read: {error}') from error
        ahead: collections.deque[int] = collections.deque()  # indices drawn and not yet yielded

        def records() -> Iterator[np.ndarray]:
            for part in parts:
                for start in range(0, len(part), _READ):
                    chosen = part[start : start + _READ].tolist()
                    ahead.extend(chosen)
                    yield np.array(source.__getitems__(chosen), object)

        options = tf.data.Options()
        options.deterministic = True
        options.threading.private_threadpool_size = machine.cores()
        options.threading.max_intra_op_parallelism = 1  # images run in parallel, not parts of one image
        batches = (
            tf.data.Dataset.from_generator(records, output_signature=tf.TensorSpec([None], tf.string))
            .unbatch()
            .map(self._decode, num_parallel_calls=machine.cores())
            .batch(batch_size)
            .prefetch(max(2, 64 // batch_size))
            .with_options(options)
        )
        running = _Running(batches)
        while True:
            try:
                batch = next(running.iterator, None)
            except tf.errors.OpError as error:
                chosen = [ahead.popleft() for _ in range(min(batch_size, len(ahead)))]
                raise self._damaged(split, self._culprit(source, split, chosen)) from error
            if batch is None:
                return
            for _ in range(len(batch)):
                ahead.popleft()
            yield batch

    def _image(self, record: tf.Tensor) -> tf.Tensor:
        """Decodes one record to uint8 [size, size, 3]."""
        example = self._features.deserialize_example(record, decoders={'image': tfds.decode.SkipDecoding()})
        encoded, box = example['image'], example['box'] if self._crop else None

        def plain() -> tf.Tensor:
            return tf_pictures.decoded(encoded, box)

        def other() -> tf.Tensor:
            return tf_pictures.cropped(tf.numpy_function(_by_pil, [encoded], tf.uint8), box)

        picture = tf.cond(example['plain'], plain, other)
        return tf_pictures.resized(tf.ensure_shape(picture, [None, None, 3]), self._size)

    def _culprit(self, source: ArrayRecordDataSource, split: str, chosen: list[int]) -> str:
        """Returns which of the chosen records cannot be read or decoded, and why."""
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
        return RunError(
            f'{what}; the prepared copy is damaged: remove {folder}, and the next run makes it again'
        )


def _by_pil(encoded: bytes) -> np.ndarray:
    with decode.opened(encoded, 'a record') as (picture, _):
        return np.asarray(picture)
