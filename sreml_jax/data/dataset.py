"""What a run asks of its data, however the images are kept. Imports no tensorflow."""

import abc
from collections.abc import Iterator

import numpy as np

Batch = dict[str, np.ndarray]


class Dataset(abc.ABC):
    """Images in retrieval splits: 'train', and either 'test' or both 'query' and 'gallery'.

    Attributes:
      name: of the dataset, as tables show it.
      labels: split -> int32 [images]. Those of 'train' are 0..classes-1, each at least once; those of the
        other splits are any numbers that agree with each other.
      class_names: split -> one name for every label that occurs, by label.
      mean, std: float32 [3]; RGB, of pixel values divided by 255.
      notes: what every table of results must say of this copy of the data (missing images, ...).
      max_images_per_class: at most so many training images of a class an epoch; 0: all.
    """

    name: str
    labels: dict[str, np.ndarray]
    class_names: dict[str, dict[int, str]]
    mean: np.ndarray
    std: np.ndarray
    notes: tuple[str, ...] = ()
    max_images_per_class: int = 0

    @abc.abstractmethod
    def images(self, split: str, indices: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """Yields images[indices] in that order, uint8 [<= batch_size, height, width, 3], read ahead."""

    @property
    def evaluation_splits(self) -> tuple[str, str]:
        """(query split, gallery split); the same name twice where every image queries all the others."""
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
        """Full training batches in an epoch; the incomplete last one is dropped, as the seed does."""
        return images_per_epoch(self.labels['train'], self.max_images_per_class) // batch_size

    def train_batches(
        self, batch_size: int, num_epochs: int, seed: int, first_step: int = 0, rows: slice = slice(None)
    ) -> Iterator[Batch]:
        """Yields the training batches of steps first_step, first_step + 1, ... to the end of the last epoch.

        Args:
          batch_size: of the whole batch over all processes.
          num_epochs: of the whole run.
          seed: of the run; batches are a function of it and of the step.
          first_step: steps before it are skipped without being decoded.
          rows: this process's share of every batch.

        Yields:
          {'image': uint8 [batch, H, W, 3], 'label': int32 [batch]}
        """
        steps = self.steps_per_epoch(batch_size)
        if first_step >= steps * num_epochs:
            return
        labels = self.labels['train']
        epochs = [
            epoch_order(seed, epoch, labels, self.max_images_per_class)
            for epoch in range(first_step // steps, num_epochs)
        ]
        # One plan for all epochs, so that reading ahead does not stop where an epoch ends.
        plan, flips = (
            np.concatenate([e[i][: steps * batch_size] for e in epochs])
            .reshape(-1, batch_size)[first_step % steps :, rows]
            .copy()
            for i in (0, 1)
        )
        share = plan.shape[1]
        for chosen, flip, image in zip(
            plan, flips, self.images('train', plan.reshape(-1), share), strict=True
        ):
            image = np.where(flip[:, None, None, None], image[:, :, ::-1], image)
            yield {'image': image, 'label': labels[chosen]}

    def evaluation_batches(
        self, split: str, batch_size: int, rows: slice = slice(None), chosen: np.ndarray | None = None
    ) -> Iterator[Batch]:
        """Yields every image of `split`, or the chosen ones, once and in order, the last batch padded.

        Yields:
          {'image': uint8 [batch, H, W, 3], 'mask': bool [batch]}; mask is False on padding. Image i of them
          is row i % batch_size of batch i // batch_size.
        """
        chosen = np.arange(len(self.labels[split])) if chosen is None else chosen
        size = len(chosen)
        plan = np.arange(-(-size // batch_size) * batch_size).reshape(-1, batch_size)[:, rows]
        mask = plan < size
        # Padding repeats the last image: cheap to read, and of the right shape.
        indices = chosen[np.minimum(plan, size - 1)]
        images = self.images(split, indices.reshape(-1), plan.shape[1])
        for image, real in zip(images, mask, strict=True):
            yield {'image': image, 'mask': real}


def images_per_epoch(labels: np.ndarray, max_images_per_class: int = 0) -> int:
    """Returns how many images `epoch_order` yields in each epoch."""
    if not max_images_per_class:
        return len(labels)
    return int(np.minimum(np.bincount(labels), max_images_per_class).sum())


def epoch_order(
    seed: int, epoch: int, labels: np.ndarray, max_images_per_class: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one epoch: which image comes when, and which are mirrored.

    Args:
      seed: of the run.
      epoch: counted from 0.
      labels: int [images]; class of each training image.
      max_images_per_class: at most so many images of a class, drawn anew each epoch; 0 takes all.

    Returns:
      order: int64 [n]; every image once (or the epoch's choice of at most N a class), shuffled.
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
