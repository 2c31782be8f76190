"""Which of a user's own images train, and which are retrieved."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from sreml_jax.data.sources.listing import Example
from sreml_jax.runtime.errors import UserError

# What split_by='images' says in every table.
SAME_CLASSES = (
    'queries are other images of the training classes, searched among the training images: not the '
    "benchmark's protocol, which tests unseen classes"
)


def parted(examples: Sequence[Example], config: ConfigDict, place: Path) -> dict[str, list[Example]]:
    """Parts the images as config.split_by and config.train_fraction say; `place` is named in messages."""
    part = by_classes if config.split_by == 'classes' else by_images
    return part(examples, config.train_fraction, place)


def remarks(config: ConfigDict) -> tuple[str, ...]:
    """Returns what every table must say of the parts that `parted` makes."""
    return () if config.split_by == 'classes' else (SAME_CLASSES,)


def by_classes(examples: Sequence[Example], share: float, place: Path) -> dict[str, list[Example]]:
    """Gives the first share of the sorted class names to training, the rest to the test.

    Raises:
      UserError: one side would have no class.
    """
    classes = sorted({example.label for example in examples})
    number = round(share * len(classes))
    if not 0 < number < len(classes):
        raise UserError(
            f'train_fraction={share:g} of the {len(classes)} classes in {place} leaves {number} to train on '
            f'and {len(classes) - number} to test on; each needs one.'
        )
    first = set(classes[:number])
    return {
        'train': [example for example in examples if example.label in first],
        'test': [example for example in examples if example.label not in first],
    }


def by_images(examples: Sequence[Example], share: float, place: Path) -> dict[str, list[Example]]:
    """Gives a share of each class's images to training and the gallery, the others query; a fixed draw.

    At least one image of each class trains, and at least one queries unless it is the only one.

    Raises:
      UserError: no class has two images.
    """
    rows: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        rows.setdefault(example.label, []).append(i)
    trained = np.zeros(len(examples), bool)
    rng = np.random.default_rng(0)
    for label in sorted(rows):
        own = rows[label]
        number = min(max(1, round(share * len(own))), max(1, len(own) - 1))
        trained[np.array(own)[rng.permutation(len(own))[:number]]] = True
    if trained.all():
        raise UserError(
            f'no class in {place} has two images; split_by=images needs one to train on and one to query'
        )
    known = [example for example, train in zip(examples, trained, strict=True) if train]
    return {
        'train': known,
        'query': [example for example, train in zip(examples, trained, strict=True) if not train],
        'gallery': known,
    }
