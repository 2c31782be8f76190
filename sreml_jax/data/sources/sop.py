"""Stanford Online Products: sellers' photographs of 22,634 products, split by two lists."""

from pathlib import Path
from typing import ClassVar

from sreml_jax.data.sources import archives, download, layout
from sreml_jax.data.sources.builder import RetrievalBuilder
from sreml_jax.data.sources.listing import Example

FOLDERS = ('', 'Stanford_Online_Products/', 'Stanford_Online_Products/Stanford_Online_Products/')
LISTS = tuple(folder + 'Ebay_train.txt' for folder in FOLDERS)
COLUMNS = (
    layout.whole,
    layout.whole,
    layout.whole,
    layout.picture_path,
)  # image, product, kind of product, path
PARTS = ('Stanford_Online_Products', 'Ebay_test.txt')  # any of them belongs to a copy that lacks a list
ADVICE = (
    'put Stanford_Online_Products.zip from https://cvgl.stanford.edu/projects/lifted_struct/ there, '
    'or let --config.download=True fetch it.'
)


class Sop(RetrievalBuilder):
    """See `find_examples`; `config.download` fetches what is not there."""

    BENCHMARK: ClassVar = {'train': (59_551, 11_318), 'test': (60_502, 11_316)}

    def find_examples(self, source: Path) -> dict[str, list[Example]]:
        if self.options.download and layout.find(source, LISTS) is None:
            download.fetch('sop', source)
        return find_examples(source)


def find_examples(source: Path) -> dict[str, list[Example]]:
    """Lists the images of both splits.

    Args:
      source: the folder with `Stanford_Online_Products/`, its archive, or its contents.

    Returns:
      {'train': those of Ebay_train.txt, 'test': those of Ebay_test.txt}, in that order.

    Raises:
      UserError: a list is missing or damaged.
    """
    if layout.find(source, LISTS) is None:
        archives.unpack(source, ['Stanford_Online_Products'])
    if layout.find(source, (*LISTS, *PARTS)) is None:
        raise layout.absent('sop', source, ADVICE)
    lists = layout.require(source, LISTS, ADVICE)
    root = lists.parent
    splits = {}
    for split in ('train', 'test'):
        file = layout.require(root, [f'Ebay_{split}.txt'], ADVICE)
        rows = layout.read_table(file, COLUMNS, header=1)
        layout.refuse_repeated(file, (path for *_, path in rows))
        # Product 1, at bicycle_final/111085122871_0.JPG, is labeled 'bicycle 1'.
        splits[split] = [
            Example(root / path, f'{path.split("_final/")[0]} {product}') for _, product, _, path in rows
        ]
    return splits
