"""A user's own images: a folder a class."""

from pathlib import Path

from sreml_jax.data import decode
from sreml_jax.data.sources.builder import Example, RetrievalBuilder
from sreml_jax.runtime.errors import UserError


class Folder(RetrievalBuilder):
    """`DIR/train/<class>/*` and `DIR/test/<class>/*`, or `DIR/<class>/*`.

    Without train/ and test/, the first `config.train_fraction` of the sorted class names are for training.
    Hidden files, and files whose suffix is not a picture's, are ignored.
    """

    def find_examples(self, source: Path) -> dict[str, list[Example]]:
        """See `RetrievalBuilder.find_examples`."""
        train, test = source / 'train', source / 'test'
        if train.is_dir() and test.is_dir():
            return {'train': _images(train, _classes(train)), 'test': _images(test, _classes(test))}
        classes = _classes(source)
        if classes in (['train'], ['test']):
            other = 'test' if classes == ['train'] else 'train'
            raise UserError(
                f'{source} has {classes[0]}/ but no {other}/; add it, or give data_dir={source / classes[0]}.'
            )
        number = round(self.options.train_fraction * len(classes))
        if not 0 < number < len(classes):
            raise UserError(
                f'train_fraction={self.options.train_fraction:g} of the {len(classes)} classes in {source} '
                f'leaves {number} to train on and {len(classes) - number} to test on; each needs one.'
            )
        return {'train': _images(source, classes[:number]), 'test': _images(source, classes[number:])}


def _classes(folder: Path) -> list[str]:
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith('.'))
    if not classes:
        raise UserError(
            f'{folder} has no class folders; put the images of each class into a folder of their own.'
        )
    return classes


def _images(folder: Path, classes: list[str]) -> list[Example]:
    examples: list[Example] = []
    for name in classes:
        images = sorted(
            path
            for path in (folder / name).iterdir()
            if path.suffix.lower() in decode.SUFFIXES and not path.name.startswith('.')
        )
        if not images:
            raise UserError(f'the class folder {folder / name} has no images; fill it or remove it.')
        examples.extend(Example(path, name) for path in images)
    return examples
