"""--mode=duplicates: the images of an index that show nearly the same."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sreml_jax.retrieval import quantization
from sreml_jax.retrieval.nearest import nearest
from sreml_jax.runtime.text import printable
from sreml_jax.search.answers import csv_text
from sreml_jax.search.exact import check_cosines
from sreml_jax.search.index import Index, Item
from sreml_jax.search.verdict import shown

SIMILARITY = 0.98  # docs/results.md says what it finds
_NEIGHBORS = 16  # of each image, which it can link to; linked images share a group, so groups can be larger
_ROUNDING = 0.02  # the greatest error of a similarity of embeddings stored as int8


class Copy(NamedTuple):
    """An image of a group.

    Attributes:
      item: what the index knows about it.
      similarity: cosine to the group's first image.
      same_file: an earlier image of the group has exactly the same bytes.
    """

    item: Item
    similarity: float
    same_file: bool


def find(
    index: Index, similarity: float = SIMILARITY, devices: Sequence[jax.Device] | None = None
) -> list[list[Copy]]:
    """Groups the images that are linked by pairs of at least this similarity.

    Each image links to at most its _NEIGHBORS nearest.

    Args:
      index: to look through.
      similarity: least cosine of two near-duplicates.
      devices: share the work; default: all local ones.

    Returns:
      Groups of two or more images, the largest first; in a group, the order of the index.

    Raises:
      UserError: the index is damaged.
    """
    index.verify()
    rows, cosines = nearest(index.embeddings, index.embeddings, _NEIGHBORS, same=True, devices=devices)
    cosines = cosines * np.float32(index.scale) ** 2
    check_cosines(index, cosines)
    first, column = np.nonzero(cosines >= similarity - _ROUNDING)
    second = rows[first, column]
    first, second = np.minimum(first, second), np.maximum(first, second)
    pairs = np.unique(np.stack([first, second], 1), axis=0)
    pairs = pairs[_cosines(index, pairs) >= similarity]
    groups = _groups(pairs, len(index))
    members = np.concatenate([np.empty(0, int), *groups])
    items = iter(index.items(members))
    found = []
    for group in groups:
        to_first = _cosines(index, np.stack([np.full(len(group), group[0]), group], 1))
        hashes: set[str] = set()
        copies = []
        for similar in to_first:
            item = next(items)
            copies.append(Copy(item, float(similar), item.sha256 in hashes))
            hashes.add(item.sha256)
        found.append(copies)
    return found


def written(groups: Sequence[Sequence[Copy]], kind: str) -> str:
    """Returns the groups in one of answers.FORMATS."""
    return {'table': _table, 'json': _json, 'csv': _csv}[kind](groups)


def _table(groups: Sequence[Sequence[Copy]]) -> str:
    column = max((len(shown(copy.item.label)) for group in groups for copy in group), default=0)
    lines = []
    for number, group in enumerate(groups, 1):
        lines.append(f'group {number}: {len(group)} images')
        for copy in group:
            same = 'same file' if copy.same_file else ''
            cells = [f'{copy.similarity:7.4f}', f'{shown(copy.item.label):{column}}', f'{same:9}']
            lines.append('  ' + '  '.join([*filter(None, cells), printable(copy.item.path, limit=None)]))
    images = sum(map(len, groups))
    lines.append(f'{images:,} images in {len(groups):,} groups: {images - len(groups):,} could go')
    return '\n'.join(lines)


def _json(groups: Sequence[Sequence[Copy]]) -> str:
    return json.dumps(
        [
            [
                {
                    'path': copy.item.path,
                    'class': copy.item.label,
                    'similarity': round(copy.similarity, 6),
                    'same_file': copy.same_file,
                    'width': copy.item.width,
                    'height': copy.item.height,
                }
                for copy in group
            ]
            for group in groups
        ],
        indent=1,
    )


def _csv(groups: Sequence[Sequence[Copy]]) -> str:
    rows = [
        (
            number,
            f'{copy.similarity:.6f}',
            copy.item.label,
            copy.item.path,
            str(copy.same_file).lower(),
            copy.item.width,
            copy.item.height,
        )
        for number, group in enumerate(groups, 1)
        for copy in group
    ]
    return csv_text(('group', 'similarity', 'class', 'path', 'same_file', 'width', 'height'), rows)


def _cosines(index: Index, pairs: np.ndarray) -> np.ndarray:
    """Returns the cosines of the stored embeddings of int [pairs, 2] rows; float32 [pairs]."""
    found = np.empty(len(pairs), np.float32)
    size = max(1, 2**26 // (8 * index.about['dimensions']))
    for start in range(0, len(pairs), size):
        part = pairs[start : start + size]
        one, other = (quantization.decode(index.embeddings[part[:, i]], index.scale) for i in (0, 1))
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        found[start : start + size] = np.einsum('pd,pd->p', one, other) / np.maximum(lengths, 1e-12)
    return found


def _groups(pairs: np.ndarray, number: int) -> list[np.ndarray]:
    """Returns the rows of each connected group of two or more, the largest group first, ascending within."""
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (number, number))
    _, labels = connected_components(links, directed=False)
    order = np.argsort(labels, kind='stable')
    parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return sorted((part for part in parts if len(part) > 1), key=lambda part: (-len(part), part[0]))
