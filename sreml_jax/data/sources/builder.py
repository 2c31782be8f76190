"""The base of all prepared datasets: finds pictures, decodes each once, and keeps them as TFDS records."""

import abc
import contextlib
import functools
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from ml_collections import ConfigDict

from sreml_jax.data import complaints, decode, tf_pictures
from sreml_jax.data.sources import listing
from sreml_jax.data.sources.listing import Example, Listing
from sreml_jax.runtime import machine
from sreml_jax.runtime.errors import UserError

log = logging.getLogger(__name__)


class RetrievalBuilder(tfds.core.GeneratorBasedBuilder):
    """Base of the datasets: a subclass finds the examples, this class prepares them.

    A prepared copy belongs to one state of the source: a hash of the listing (names, sizes, times, labels,
    boxes) names its folder. A source that changed is prepared again; one that did not is found at once.

    `info.metadata` holds what later runs need without reading a record: 'classes' (names, by label), 'labels'
    (split -> label of each record), 'mean' and 'std' (RGB in 0..1 of the training images, each image with the
    same weight), 'width', 'height' and 'bytes' (split -> sum over its images), 'boxes' (whether there are
    any), 'notes' (what tables must say) and 'unreadable' (what is wrong with each file left out).

    Args:
      source: folder of the user's copy.
      config: of the run; a subclass reads it as `self.options`.

    Raises:
      UserError: the folder holds no copy of the dataset, or images are missing and `allow_missing` is off.
    """

    VERSION = tfds.core.Version('1.1.0')
    BENCHMARK: ClassVar[dict[str, tuple[int, int]]] = {}  # split -> images and classes of its full list
    remarks: tuple[str, ...] = ()  # of `find_examples`, on how it parts the images; every table shows them
    url_infos: ClassVar[dict] = {}  # else TFDS looks for a file of checksums beside the package

    def __init__(self, source: Path, config: ConfigDict):
        self.source = Path(source).expanduser().resolve()
        self.options = config
        with _quiet():
            super().__init__(
                file_format='array_record',
                data_dir=Path(config.prepared_dir).expanduser(),
                config=tfds.core.BuilderConfig(
                    name=self.fingerprint(), description=f'Prepared from {source}'
                ),
            )

    @abc.abstractmethod
    def find_examples(self, source: Path) -> dict[str, list[Example]]:
        """Lists the images of each split: 'train', and either 'test' or both 'query' and 'gallery'.

        Includes images that the dataset's own lists name but that are not on disk: the base counts and
        reports them.

        Raises:
          UserError: this folder holds no copy of the dataset.
        """

    def encoded(self, example: Example) -> bytes:
        """Returns the picture's file as found; a builder that draws its images overrides this."""
        return decode.read_file(example.path)

    def fingerprint(self) -> str:
        """Returns the name of this state of the source."""
        return self.listing.digest

    @functools.cached_property
    def listing(self) -> Listing:
        """The images that exist; see `listing.of`."""
        try:
            examples = self.find_examples(self.source)
        except OSError as error:
            raise UserError(f'{self.name}: {error.filename} cannot be read ({error.strerror})') from error
        return listing.of(
            self.name,
            self.source,
            examples,
            version=str(self.VERSION),
            benchmark=self.BENCHMARK,
            allow_missing=self.options.allow_missing,
        )

    def prepare(self) -> None:
        """Decodes every image once and writes the records, unless this state of the source has them already.

        Waits for another process that prepares the same. Removes what a killed one left behind; the finished
        copy is moved into place.

        Raises:
          UserError: images are unreadable and `skip_unreadable` is off, or `prepared_dir` cannot be written.
        """
        if not self.data_path.exists():
            try:
                self.data_path.parent.mkdir(parents=True, exist_ok=True)
                with machine.locked(self.data_path.parent / 'lock'):
                    for left in self.data_path.parent.glob('incomplete.*'):
                        shutil.rmtree(left)
                    with _quiet(), complaints.Watched() as self._watched:
                        self.download_and_prepare()
            except OSError as error:
                raise UserError(
                    f'{self.name} cannot be prepared in {self.options.prepared_dir}: {error}'
                ) from error
            self.info.read_from_directory(self.data_dir)
        unreadable = self.info.metadata['unreadable']
        if unreadable and not self.options.skip_unreadable:
            raise self._unreadable_error(unreadable)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f'{self.name}: training classes, and the classes to retrieve.',
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(),  # the file as found
                    'plain': np.bool_,  # see decode.open_picture
                    'label': np.int64,  # index into metadata['classes']
                    'box': tfds.features.Tensor(shape=(4,), dtype=np.int32),  # clipped; by default all
                    'file_name': tfds.features.Text(),
                }
            ),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        splits, _, notes = self.listing
        notes = [*notes, *self.remarks]
        every = [example for examples in splits.values() for example in examples]
        trained = {example.label for example in splits['train']}
        tested = {e.label for split, examples in splits.items() if split != 'train' for e in examples}
        self.info.metadata.update(
            classes=list(dict.fromkeys(example.label for example in every)),
            labels={split: [] for split in splits},
            boxes=every[0].box is not None,
            notes=notes,
            unreadable=[],
            **{total: dict.fromkeys(splits, 0) for total in ('width', 'height', 'bytes')},
        )
        both = len(trained & tested)
        if both and not self.remarks:
            self.info.metadata['notes'].append(f'{both:,} test classes are training classes too')
        shown = {'desc': f'preparing {self.name}', 'unit': ' images', 'file': self._watched.terminal}
        progress = tqdm.tqdm(total=len(every), disable=None, **shown)
        return {
            split: self._generate_examples(split, examples, progress) for split, examples in splits.items()
        }

    def _generate_examples(self, split: str, examples: list[Example], progress: tqdm.tqdm) -> Iterator:
        metadata = self.info.metadata
        index = {name: i for i, name in enumerate(metadata['classes'])}
        moments, number = np.zeros((2, 3)), 0
        for example, (picture, error) in zip(
            examples, machine.in_threads(self._decode, examples), strict=True
        ):
            progress.update()
            if error:
                metadata['unreadable'].append(error)
                continue
            metadata['labels'][split].append(index[example.label])
            metadata['width'][split] += picture.pop('width')
            metadata['height'][split] += picture.pop('height')
            metadata['bytes'][split] += len(picture['image'])
            moments += picture.pop('moments')
            yield number, {**picture, 'label': index[example.label]}
            number += 1
        if not number:
            raise self._unreadable_error(metadata['unreadable'])
        if split == 'train':
            mean, square = moments / number
            metadata.update(mean=mean.tolist(), std=np.sqrt(np.maximum(square - mean**2, 0)).tolist())
        if split == list(metadata['labels'])[-1]:
            progress.close()
            self._judge_unreadable()

    def _decode(self, example: Example) -> tuple[dict[str, Any], str]:
        """Returns (record and measures of a picture, '') or ({}, what is wrong with it)."""
        name = listing.file_name(self.source, example)
        try:
            encoded = self.encoded(example)
            with decode.opened(encoded, name) as (picture, plain):
                width, height = picture.size
                histogram = picture.histogram()
        except UserError as error:
            return {}, str(error)
        levels = np.arange(256) / 255
        shares = np.reshape(histogram, (3, 256)) / (width * height)
        return {
            'image': encoded,
            # Training decodes plain pictures by tensorflow, which refuses some that PIL reads.
            'plain': plain and self._is_read_quietly(encoded, width, height),
            'box': decode.clipped(example.box or (0, 0, width, height), width, height),
            'file_name': name,
            'width': width,
            'height': height,
            'moments': np.stack([shares @ levels, shares @ levels**2]),
        }, ''

    def _is_read_quietly(self, encoded: bytes, width: int, height: int) -> bool:
        """Whether tensorflow decodes the picture, and prints nothing about it."""
        read, complained = self._watched.complains(lambda: tf_pictures.reads(encoded, width, height))
        return read and not complained

    def _judge_unreadable(self) -> None:
        """Stops the preparation, or notes what is left out, once every image was tried."""
        metadata = self.info.metadata
        unreadable = metadata['unreadable']
        if not unreadable:
            return
        if not self.options.skip_unreadable:
            raise self._unreadable_error(unreadable)
        metadata['notes'].append(f'{len(unreadable):,} unreadable images are left out')
        log.warning('%s: unreadable images are left out: %s', self.name, listing.shown(unreadable))

    def _unreadable_error(self, unreadable: Sequence[str]) -> UserError:
        return UserError(
            f'{self.name}: {len(unreadable):,} unreadable images in {self.source} '
            f'({listing.shown(unreadable)}); repair or remove them, or leave them out by '
            '--config.skip_unreadable=True.'
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences TFDS, which reports downloads; our progress bar goes to stderr."""
    tfds.disable_progress_bar()
    logger = logging.getLogger('absl')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        logger.setLevel(level)
