"""Training classes that are held out to watch the training; test classes play no part in it."""

from collections.abc import Iterable, Iterator

import numpy as np

from sreml_jax.data.dataset import Dataset
from sreml_jax.runtime.errors import UserError

SPLIT = 'validation'


def choose(classes: int, share: float) -> np.ndarray:
    """Draws which of the training classes are held out, the same ones each time: int, ascending.

    Raises:
      UserError: fewer than two would be held out, or be left to train on.
    """
    number = round(share * classes)
    if not 2 <= number <= classes - 2:
        raise UserError(
            f'config.validation_share={share:g} of {classes} training classes holds {number} out and leaves '
            f'{classes - number} to train on; each part needs two'
        )
    return np.sort(np.random.default_rng(0).permutation(classes)[:number])


class HeldOut(Dataset):
    """A dataset without some of its training classes, whose images are its split `SPLIT`.

    Args:
      dataset: some of its training classes are held out; its other splits stay.
      share: of the classes that are held out, see `choose`.

    Raises:
      UserError: the share leaves too few classes.
    """

    def __init__(self, dataset: Dataset, share: float):
        out = choose(dataset.num_classes, share)
        labels, names = dataset.labels['train'], dataset.class_names['train']
        held = np.isin(labels, out)
        self._dataset = dataset
        self._rows = {'train': np.flatnonzero(~held), SPLIT: np.flatnonzero(held)}
        self.name, self.mean, self.std, self.notes = dataset.name, dataset.mean, dataset.std, dataset.notes
        self.max_images_per_class = dataset.max_images_per_class
        kept, numbers = np.unique(labels[~held], return_inverse=True)
        self.labels = {**dataset.labels, 'train': numbers.astype(np.int32), SPLIT: labels[held]}
        self.class_names = {
            **dataset.class_names,
            'train': {i: names[int(label)] for i, label in enumerate(kept)},
            SPLIT: {int(label): names[int(label)] for label in out},
        }

    def read(self, split: str, parts: Iterable[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
        """See `Dataset.read`."""
        if split not in self._rows:
            return self._dataset.read(split, parts, batch_size)
        rows = self._rows[split]
        return self._dataset.read('train', (rows[part] for part in parts), batch_size)
