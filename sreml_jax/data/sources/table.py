"""A user's own images, listed in a CSV or Parquet file."""

import csv
from pathlib import Path

import pyarrow
import pyarrow.parquet

from sreml_jax.data.sources import layout, split
from sreml_jax.data.sources.builder import RetrievalBuilder
from sreml_jax.data.sources.listing import Example
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable

TESTS = ('test', 'val', 'valid', 'validation')
SPLITS = ('train', *TESTS, 'query', 'gallery')


class Table(RetrievalBuilder):
    """Columns path and label, and split if the user decides it; paths start at the file's own folder.

    split has train and test (or val, valid or validation), or train, query and gallery. Without that column,
    config.split_by and config.train_fraction decide.
    """

    def find_examples(self, source: Path) -> dict[str, list[Example]]:
        """See `RetrievalBuilder.find_examples`."""
        columns = _columns(source)
        paths, labels, splits = columns['path'], columns['label'], columns.get('split')
        layout.refuse_repeated(source, paths)
        examples = [Example(source.parent / path, label) for path, label in zip(paths, labels, strict=True)]
        if splits is None:
            self.remarks = split.remarks(self.options)
            return split.parted(examples, self.options, source)
        found: dict[str, list[Example]] = {}
        for row, (example, name) in enumerate(zip(examples, splits, strict=True), 1):
            if name not in SPLITS:
                raise UserError(
                    f'row {row} of {source} has the split {printable(name, 40)!r}; known are '
                    f'{", ".join(SPLITS)}'
                )
            found.setdefault(name, []).append(example)
        tests = [name for name in found if name in TESTS]
        if 'train' in found and len(tests) == 1 and len(found) == 2:
            return {'train': found['train'], 'test': found[tests[0]]}
        if set(found) == {'train', 'query', 'gallery'}:
            return {name: found[name] for name in ('train', 'query', 'gallery')}
        raise UserError(
            f'{source} has the splits {", ".join(sorted(found))}; keep train and test (or val, valid or '
            'validation), or train, query and gallery, or leave the column out'
        )


def _columns(source: Path) -> dict[str, list[str]]:
    """Returns the values of the columns path, label and, if there is one, split; none is empty."""
    try:
        columns = _csv(source) if source.suffix.lower() == '.csv' else _parquet(source)
    except (OSError, UnicodeDecodeError, csv.Error, pyarrow.ArrowException) as error:
        raise UserError(f'{source} cannot be read ({printable(error, 200)}); {layout.GOOD_COPY}') from None
    if missing := [name for name in ('path', 'label') if name not in columns]:
        there = ', '.join(printable(name, 40) for name in columns) or 'none'
        raise UserError(f'{source} has no column {" and ".join(missing)}, only {there}; rename its columns')
    columns = {name: columns[name] for name in ('path', 'label', 'split') if name in columns}
    for name, values in columns.items():
        for row, value in enumerate(values, 1):
            if not value:
                raise UserError(f'row {row} of {source} has no {name}; fill it in, or remove the row')
    if not columns['path']:
        raise UserError(f'{source} has no rows; list an image in each')
    return columns


def _csv(source: Path) -> dict[str, list[str]]:
    with source.open(encoding='utf-8-sig', newline='') as file:  # spreadsheets put a mark at the start
        rows = [[cell.strip() for cell in row] for row in csv.reader(file, strict=True) if any(row)]
    if not rows:
        return {}
    head, *rows = rows
    for number, row in enumerate(rows, 1):
        if len(row) != len(head):
            raise UserError(
                f'row {number} of {source} has {len(row)} cells, and its first line {len(head)}; put quotes '
                'around texts that contain a comma'
            )
    return {name: [row[i] for row in rows] for i, name in enumerate(head)}


def _parquet(source: Path) -> dict[str, list[str]]:
    names = pyarrow.parquet.read_schema(source).names
    wanted = [name for name in ('path', 'label', 'split') if name in names]
    table = pyarrow.parquet.read_table(source, columns=wanted)
    found = {
        name: ['' if value is None else str(value) for value in table[name].to_pylist()] for name in wanted
    }
    return {name: found.get(name, []) for name in names}
