"""The result of an evaluation: the Recall@K table in the seed's layout, and results.json."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sreml_jax.retrieval.members_curve import Point
from sreml_jax.retrieval.pca import Reduced
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.retrieval.recall import NO_MATCH, recall_at
from sreml_jax.runtime import files


@dataclasses.dataclass(frozen=True)
class Result:
    """Recall of one embedding on one dataset.

    Attributes:
      dataset: its name.
      crop: 'uncropped' or 'cropped'; '' if nobody knows.
      embedding: what made the embedding, the head of its column: `Run.name` or 'raw pixels'.
      protocol: 'self-retrieval': each image queries all the others; or 'query/gallery': two splits.
      queries, gallery: number of images.
      classes: number of classes among the queries.
      unmatched: queries without a correct match in the gallery; each is a miss.
      recall: K -> fraction of the queries, 0..1.
      notes: remarks on this copy of the data.
    """

    dataset: str
    crop: str
    embedding: str
    protocol: str
    queries: int
    gallery: int
    classes: int
    unmatched: int
    recall: dict[int, float]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        ranks: np.ndarray,
        ks: Iterable[int],
        protocol: Protocol,
        *,
        dataset: str,
        crop: str,
        embedding: str,
        notes: Iterable[str] = (),
    ) -> 'Result':
        """Summarizes the ranks, int [queries], from `recall.ranks`."""
        return cls(
            dataset=dataset,
            crop=crop,
            embedding=embedding,
            protocol=protocol.name,
            queries=len(protocol.query_labels),
            gallery=len(protocol.gallery_labels),
            classes=len(np.unique(protocol.query_labels)),
            unmatched=int((ranks == NO_MATCH).sum()),
            recall=recall_at(ranks, ks),
            notes=tuple(notes),
        )

    @property
    def heading(self) -> tuple[str, ...]:
        """Lines that say what was measured."""
        if self.protocol == 'self-retrieval':
            images = f'each of {self.queries:,} images against the {self.gallery - 1:,} others'
        else:
            images = f'{self.queries:,} queries against a gallery of {self.gallery:,} images'
        what = ', '.join(filter(None, (self.dataset, self.crop, self.protocol)))
        lines = [f'{what}: {images}; {self.classes:,} classes']
        if self.unmatched:
            lines.append(f'queries without a match, counted as misses: {self.unmatched:,}')
        return (*lines, *(f'note: {note}' for note in self.notes))


def recall_table(*results: Result) -> str:
    """Returns the Recall@K table, one column per result and one row per K, below the headings.

    The layout is the seed's: rows R@1, R@2, ..., and percentages with two decimals.
    """
    heads = [[r.dataset + (' (Crop)' if r.crop == 'cropped' else ''), r.embedding] for r in results]
    rows = [('Dataset', *(h[0] for h in heads)), ('Backbone', *(h[1] for h in heads))]
    for k in dict.fromkeys(k for r in results for k in r.recall):
        cells = (f'{100 * r.recall[k]:.2f}%' if k in r.recall else '/' for r in results)
        rows.append((f'R@{k}', *cells))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        '  '.join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    lines.insert(2, '-' * len(lines[0]))
    headings = dict.fromkeys(line for r in results for line in r.heading)
    return '\n'.join([*headings, '', *lines])


def members_table(curve: Sequence[Point]) -> str:
    """Returns the table of Recall@1 by the number of members, and its rise."""
    lines = ['', 'Members  Recall@1  Deviation  Random subsets']
    for point in curve:
        deviation = f'{100 * point.deviation:.2f}' if point.subsets > 1 else '/'
        lines.append(f'{point.members:7}  {100 * point.mean:7.2f}%  {deviation:>9}  {point.subsets:14}')
    rise = 100 * (curve[-1].mean - curve[0].mean)
    return '\n'.join([*lines, f'from 1 member to {curve[-1].members}: {rise:+.2f} points', ''])


def dimensions_table(reduced: Sequence[Reduced]) -> str:
    """Returns the table of Recall@1 by dimensions and storage, by which a user can choose."""
    lines = ['', 'Dimensions  Stored as  Bytes an image  Recall@1']
    for row in reduced:
        recall = f'{100 * row.recall:.2f}%'
        lines.append(f'{row.dimensions:10,}  {row.storage:>9}  {row.image_bytes:14,}  {recall:>8}')
    return '\n'.join([*lines, 'fewer dimensions: --config.embedding_dim=N; fewer bytes: --storage', ''])


def by_name(recall: dict[int, float]) -> dict[str, float]:
    """Returns the recalls by K as JSON names them."""
    return {str(k): v for k, v in recall.items()}


def write_results(path: Path, result: Result, **more: object) -> None:
    """Writes results.json: the recalls as fractions by K, the protocol and its counts.

    Further entries of an existing file (those of --mode=eval) are kept, unless an entry that both have
    differs: then that file belongs to another checkpoint or protocol.

    Args:
      path: of the file, which is replaced atomically.
      result: the model's.
      **more: further entries as JSON: the step, the members curve, the baselines' recall, ...

    Raises:
      RunError: the file cannot be written, for example on a full disk; the old one stays.
    """
    entries = dataclasses.asdict(result) | more
    recall = by_name(entries.pop('recall'))
    written = json.loads(json.dumps({'recall': recall, **entries}))  # as a reader will get it
    written |= _further(path, written)
    with files.atomic_write(path) as temporary:
        temporary.write_text(json.dumps(written, indent=2) + '\n')


def _further(path: Path, entries: dict[str, Any]) -> dict[str, Any]:
    """Returns the further entries of the file at `path`; {} if an entry that both have differs."""
    try:
        old = json.loads(path.read_text())
        both = old.keys() & entries.keys()
    except (OSError, ValueError, AttributeError):  # missing, or not written by this program
        return {}

    def alike(one: Any, other: Any) -> bool:
        if isinstance(one, dict) and isinstance(other, dict):
            return all(one[k] == other[k] for k in one.keys() & other.keys())
        return one == other

    if not all(alike(old[name], entries[name]) for name in both):
        return {}
    return {name: value for name, value in old.items() if name not in both}
