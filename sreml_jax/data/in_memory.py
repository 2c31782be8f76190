"""A dataset in memory as numpy arrays, for machines without tensorflow and for tests."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from sreml_jax.data.dataset import Dataset


class ArrayDataset(Dataset):
    """Decoded images in memory.

    Args:
      name: the dataset's name, as tables show it.
      images: split -> uint8 [n, height, width, 3].
      labels: split -> int [n]. Training labels may be any integers; this class numbers them from 0.
      mean, std: float [3]; RGB in 0..1. None: measured on the training images.
    """

    def __init__(
        self,
        name: str,
        images: Mapping[str, np.ndarray],
        labels: Mapping[str, np.ndarray],
        mean: np.ndarray | None = None,
        std: np.ndarray | None = None,
    ):
        self.name = name
        self._images = dict(images)
        self.labels = {split: np.asarray(x, np.int32) for split, x in labels.items()}
        self.class_names = {
            split: {int(label): str(label) for label in np.unique(x)} for split, x in self.labels.items()
        }
        train_classes, self.labels['train'] = np.unique(self.labels['train'], return_inverse=True)
        self.labels['train'] = self.labels['train'].astype(np.int32)
        self.class_names['train'] = {i: str(label) for i, label in enumerate(train_classes)}
        if mean is None or std is None:
            mean, std = color_statistics(self._images['train'])
        self.mean, self.std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def read(self, split: str, parts: Iterable[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
        """See `Dataset.read`."""
        for part in parts:
            for start in range(0, len(part), batch_size):
                yield self._images[split][part[start : start + batch_size]]


def color_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns RGB mean and standard deviation, float64 [3] in 0..1, over all pixels of uint8 [n, H, W, 3]."""
    total, squares = np.zeros(3), np.zeros(3)
    for image in images:  # one at a time: a float copy of all would be eight times their size
        pixels = image.reshape(-1, 3) / 255.0
        total += pixels.sum(0)
        squares += np.square(pixels).sum(0)
    count = images.shape[0] * images.shape[1] * images.shape[2]
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))
