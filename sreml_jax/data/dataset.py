"""The interface of a dataset, and the order of its batches. Imports no tensorflow."""

import abc
import collections
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

Batch = dict[str, np.ndarray]

# RGB of ImageNet's training images, in 0..1: torchvision's weights expect images normalized by it.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Extent(NamedTuple):
    """How much there is to train on.

    Attributes:
      images: of an epoch.
      classes: of these images.
      side: mean of their widths and heights, in pixels.
    """

    images: int
    classes: int
    side: int


class Dataset(abc.ABC):
    """Images in retrieval splits: 'train', and either 'test' or both 'query' and 'gallery'.

    Attributes:
      name: the dataset's name, as tables show it.
      labels: split -> int32 [images]. Those of 'train' are 0..classes-1, each at least once; those of the
        other splits are any numbers that agree with each other.
      class_names: split -> label -> name, for every label that occurs.
      mean, std: float32 [3]; RGB, of pixel values divided by 255.
      notes: what every table of results must say about this copy of the data (missing images, ...).
      max_images_per_class: training images of a class in one epoch, at most; 0: all.
    """

    name: str
    labels: dict[str, np.ndarray]
    class_names: dict[str, dict[int, str]]
    mean: np.ndarray
    std: np.ndarray
    notes: tuple[str, ...] = ()
    max_images_per_class: int = 0

    @abc.abstractmethod
    def read(self, split: str, parts: Iterable[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
        """Yields images, read ahead.

        Args:
          split: of the dataset.
          parts: int [n] each; which images come. A part is drawn only shortly before it is read. The length
            of each but the last is a multiple of batch_size.
          batch_size: images at a time.

        Yields:
          uint8 [<= batch_size, height, width, 3], in the order of the parts.
        """

    def images(self, split: str, indices: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """Yields images[indices] in that order, uint8 [<= batch_size, height, width, 3], read ahead."""
        return self.read(split, [indices], batch_size)

    @property
    def evaluation_splits(self) -> tuple[str, str]:
        """(query split, gallery split); the same name twice if every image queries all the others."""
        return ('query', 'gallery') if 'query' in self.labels else ('test', 'test')

    @property
    def num_classes(self) -> int:
        """Number of training classes."""
        return int(self.labels['train'].max()) + 1

    @property
    def train_classes(self) -> list[str]:
        """Names of the training classes, by label."""
        return [self.class_names['train'][label] for label in range(self.num_classes)]

    def steps_per_epoch(self, batch_size: int) -> int:
        """Returns the full training batches of an epoch; the incomplete last one is dropped."""
        return images_per_epoch(self.labels['train'], self.max_images_per_class) // batch_size

    def train_batches(
        self, batch_size: int, num_epochs: int, seed: int, first_step: int = 0, rows: slice = slice(None)
    ) -> Iterator[Batch]:
        """Yields the training batches of steps first_step, first_step + 1, ... to the end of the last epoch.

        Args:
          batch_size: images of a batch over all processes.
          num_epochs: epochs of the whole run.
          seed: seed of the run; a batch is a function of the seed and the step.
          first_step: earlier steps are skipped without being decoded.
          rows: this process's share of every batch.

        Yields:
          {'image': uint8 [batch, H, W, 3], 'label': int32 [batch]}
        """
        steps = self.steps_per_epoch(batch_size)
        if first_step >= steps * num_epochs:
            return
        labels = self.labels['train']
        share = len(range(batch_size)[rows])
        drawn: collections.deque[tuple[np.ndarray, np.ndarray]] = collections.deque()

        def parts() -> Iterator[np.ndarray]:
            # One stream of images for all epochs, so that reading ahead does not stop at the end of an epoch.
            # An epoch is drawn when the reader reaches it: a plan of all epochs can exceed the memory.
            for epoch in range(first_step // steps, num_epochs):
                first = first_step % steps if epoch == first_step // steps else 0
                order, flip = (
                    x[: steps * batch_size].reshape(steps, batch_size)[first:, rows]
                    for x in epoch_order(seed, epoch, labels, self.max_images_per_class)
                )
                drawn.append((order, flip))
                yield order.reshape(-1)

        images = self.read('train', parts(), share)
        for image in images:
            order, flip = drawn.popleft()
            for i in range(len(order)):
                image = image if i == 0 else next(images)
                image = np.where(flip[i][:, None, None, None], image[:, :, ::-1], image)
                yield {'image': image, 'label': labels[order[i]]}

    def evaluation_batches(
        self, split: str, batch_size: int, rows: slice = slice(None), chosen: np.ndarray | None = None
    ) -> Iterator[Batch]:
        """Yields every image of `split`, or the chosen ones, once and in order; the last batch is padded.

        Yields:
          {'image': uint8 [batch, H, W, 3], 'mask': bool [batch]}; mask is False on padding. Image i is row
          i % batch_size of batch i // batch_size.
        """
        chosen = np.arange(len(self.labels[split])) if chosen is None else chosen
        size = len(chosen)
        plan = np.arange(-(-size // batch_size) * batch_size).reshape(-1, batch_size)[:, rows]
        mask = plan < size
        # Padding repeats the last image, which is cheap to read and has the right shape.
        indices = chosen[np.minimum(plan, size - 1)]
        images = self.images(split, indices.reshape(-1), plan.shape[1])
        for image, real in zip(images, mask, strict=True):
            yield {'image': image, 'mask': real}


def images_per_epoch(labels: np.ndarray, max_images_per_class: int = 0) -> int:
    """Returns the number of images that `epoch_order` gives in each epoch."""
    if not max_images_per_class:
        return len(labels)
    return int(np.minimum(np.bincount(labels), max_images_per_class).sum())


def epoch_order(
    seed: int, epoch: int, labels: np.ndarray, max_images_per_class: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the order of one epoch, and the images that it mirrors.

    Args:
      seed: seed of the run.
      epoch: number of the epoch, from 0.
      labels: int [images]; class of each training image.
      max_images_per_class: images of a class at most; each epoch draws its own. 0 takes all.

    Returns:
      order: int64 [n]; every image once (or the epoch's choice of each class), shuffled.
      flip: bool [n]; whether that image is mirrored left to right.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(labels))
    if max_images_per_class:
        by_class = np.argsort(labels[order], kind='stable')  # order within a class stays random
        first = np.searchsorted(labels[order][by_class], labels[order][by_class])
        rank = np.arange(len(order)) - first
        order = order[np.sort(by_class[rank < max_images_per_class])]
    return order, rng.random(len(order)) < 0.5
