"""A user's own images: one folder for each class."""

import logging
from pathlib import Path

from sreml_jax.data import decode
from sreml_jax.data.sources import split
from sreml_jax.data.sources.builder import RetrievalBuilder
from sreml_jax.data.sources.listing import Example
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable

log = logging.getLogger(__name__)

TESTS = ('test', 'val', 'valid')  # folders of the classes to retrieve
SHOWN = 5  # names in a warning


class Folder(RetrievalBuilder):
    """`DIR/train/<class>/*` and `DIR/test/<class>/*`, or `DIR/<class>/*`; val/ or valid/ may stand for test/.

    Without these two folders, config.split_by and config.train_fraction decide what trains.
    Hidden files are ignored. Files whose suffix is not a picture's are left out, which a warning says.
    """

    def find_examples(self, source: Path) -> dict[str, list[Example]]:
        """See `RetrievalBuilder.find_examples`."""
        train, tests = source / 'train', [source / name for name in TESTS if (source / name).is_dir()]
        if train.is_dir() and len(tests) > 1:
            names = ' and '.join(f'{test.name}/' for test in tests)
            raise UserError(f'{source} has {names} beside train/; keep the one to retrieve from.')
        if train.is_dir() and tests:
            if self.options.split_by != 'classes':
                raise UserError(
                    f'{source} has train/ and {tests[0].name}/; split_by={self.options.split_by} is for a '
                    'folder that has class folders only.'
                )
            return {'train': _images(train, _classes(train)), 'test': _images(tests[0], _classes(tests[0]))}
        classes = _classes(source)
        if classes in (['train'], ['test']):
            other = 'test' if classes == ['train'] else 'train'
            raise UserError(
                f'{source} has {classes[0]}/ but no {other}/; add it, or give data_dir={source / classes[0]}.'
            )
        self.remarks = split.remarks(self.options)
        return split.parted(_images(source, classes), self.options, source)


def _classes(folder: Path) -> list[str]:
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith('.'))
    if not classes:
        raise UserError(
            f'{folder} has no class folders; put the images of each class into a folder of their own.'
        )
    return classes


def _images(folder: Path, classes: list[str]) -> list[Example]:
    examples: list[Example] = []
    others: list[Path] = []
    for name in classes:
        files = sorted(path for path in (folder / name).iterdir() if not path.name.startswith('.'))
        images = [path for path in files if path.suffix.lower() in decode.SUFFIXES]
        others += [path for path in files if path.suffix.lower() not in decode.SUFFIXES and not path.is_dir()]
        if not images:
            raise UserError(f'the class folder {folder / name} has no images; fill it or remove it.')
        examples.extend(Example(path, name) for path in images)
    if others:
        shown = ', '.join(printable(path.relative_to(folder), 80) for path in others[:SHOWN])
        more = ', ...' if len(others) > SHOWN else ''
        log.warning('%d files in %s are no pictures and are left out: %s%s', len(others), folder, shown, more)
    return examples
