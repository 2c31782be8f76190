"""CUB-200-2011: photographs of 200 kinds of birds; the first 100 train, the last 100 test."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from sreml_jax.data.sources import archives, download, layout
from sreml_jax.data.sources.builder import RetrievalBuilder
from sreml_jax.data.sources.listing import Example
from sreml_jax.runtime.errors import UserError

LISTS = ('images.txt', 'CUB_200_2011/images.txt', 'CUB_200_2011/CUB_200_2011/images.txt')
PARTS = (
    'CUB_200_2011',
    'images',
    'image_class_labels.txt',
)  # one of them shows that a copy was meant to be there
ADVICE = (
    'put CUB_200_2011.tgz from https://www.vision.caltech.edu/datasets/cub_200_2011/ there, '
    'or let --config.download=True fetch it.'
)
TRAIN_CLASSES = 100


class Cub(RetrievalBuilder):
    """See `find_examples`; `config.download` fetches what is not there."""

    BENCHMARK: ClassVar = {'train': (5_864, 100), 'test': (5_924, 100)}

    def find_examples(self, source: Path) -> dict[str, list[Example]]:
        if self.options.download and layout.find(source, LISTS) is None:
            download.fetch('cub', source)
        return find_examples(source)


def find_examples(source: Path) -> dict[str, list[Example]]:
    """Lists the images of both splits.

    Args:
      source: the folder with `CUB_200_2011/`, its archive, or its contents.

    Returns:
      {'train': classes 1-100, 'test': classes 101-200}, in the order of images.txt.

    Raises:
      UserError: a list is missing, damaged or of another copy.
    """
    if layout.find(source, LISTS) is None:
        archives.unpack(source, ['CUB_200_2011'])
    if layout.find(source, (*LISTS, *PARTS)) is None:
        raise layout.absent('cub', source, ADVICE)
    lists = layout.require(source, LISTS, ADVICE)
    root = lists.parent
    names = _read(lists, (layout.whole, layout.picture_path))
    labels = _read(layout.require(root, ['image_class_labels.txt'], ADVICE), (layout.whole, layout.whole))
    boxes = _read(layout.require(root, ['bounding_boxes.txt'], ADVICE), (layout.whole, *[layout.finite] * 4))
    layout.refuse_repeated(lists, (name for [name] in names.values()))
    if not names.keys() == labels.keys() == boxes.keys():
        raise UserError(
            f'images.txt, image_class_labels.txt and bounding_boxes.txt in {root} do not list the same '
            'images: put the three files of one copy there.'
        )
    splits: dict[str, list[Example]] = {'train': [], 'test': []}
    for image, [name] in names.items():
        left, top, width, height = boxes[image]
        box = (math.floor(left), math.floor(top), math.ceil(left + width), math.ceil(top + height))
        # The image's folder is its class's name, number and all: 001.Black_footed_Albatross.
        example = Example(root / 'images' / name, name.split('/')[0], box)
        splits['train' if labels[image][0] <= TRAIN_CLASSES else 'test'].append(example)
    return splits


def _read(path: Path, columns: Sequence[Callable]) -> dict[int, list]:
    """Returns the number of each image -> the rest of its line."""
    rows = layout.read_table(path, columns)
    layout.refuse_repeated(path, (f'image {image}' for image, *_ in rows))
    return {image: rest for image, *rest in rows}
