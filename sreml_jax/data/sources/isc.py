"""In-shop Clothes Retrieval (DeepFashion): photographs of garments against a shop's gallery."""

from pathlib import Path
from typing import ClassVar

from sreml_jax.data.sources import archives, layout
from sreml_jax.data.sources.builder import RetrievalBuilder
from sreml_jax.data.sources.listing import Example
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable

LISTS = ('Eval/list_eval_partition.txt', 'list_eval_partition.txt')
IMAGES = ('Img/img', 'img')
SPLITS = ('train', 'query', 'gallery')
PARTS = ('Eval', 'Img', 'img')  # any of them belongs to a copy that lacks a list
ADVICE = (
    'fetch by hand and put there Eval/list_eval_partition.txt and Img/img.zip (or Img/img/); '
    'https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html says where to get them.'
)


class Isc(RetrievalBuilder):
    """See `find_examples`."""

    BENCHMARK: ClassVar = {'train': (25_882, 3_997), 'query': (14_218, 3_985), 'gallery': (12_612, 3_985)}

    def find_examples(self, source: Path) -> dict[str, list[Example]]:
        return find_examples(source)


def find_examples(source: Path) -> dict[str, list[Example]]:
    """Lists the images of the three splits, labeled by item id.

    Args:
      source: the folder with `Eval/` and `Img/`, or with the list beside `img/` or `img.zip`.

    Returns:
      {'train': ..., 'query': ..., 'gallery': ...}, in the list's order.

    Raises:
      UserError: the list or the images' folder is missing, or the list is damaged.
    """
    if layout.find(source, (*LISTS, *PARTS)) is None:
        raise layout.absent('isc', source, ADVICE)
    partition = layout.require(source, LISTS, ADVICE)
    if layout.find(source, IMAGES) is None:
        for folder in (source / 'Img', source):
            archives.unpack(folder, ['img'])
    root = layout.require(source, IMAGES, ADVICE).parent
    announced = layout.read_lines(partition)[:1]
    columns = (layout.picture_path, layout.picture_path, str)  # an item's id is the name of a folder
    rows = layout.read_table(partition, columns, header=2)
    if announced != [str(len(rows))]:
        raise UserError(
            f'{partition} has {len(rows)} images where its first line says '
            f'{printable("".join(announced))!r}: put a good copy of it there.'
        )
    layout.refuse_repeated(partition, (path for path, *_ in rows))
    splits: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for path, item, split in rows:
        if split not in splits:
            raise UserError(
                f'{partition} has a split {printable(split)!r} where {", ".join(SPLITS)} belong: put '
                'the list of the In-shop benchmark there, not that of another part of DeepFashion.'
            )
        splits[split].append(Example(root / path, item))
    return splits
