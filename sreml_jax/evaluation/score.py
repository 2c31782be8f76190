"""--mode=score: the embeddings of any program, measured as --mode=eval measures this program's own."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sreml_jax.evaluation import arrays, identification, result
from sreml_jax.retrieval import metrics, recall, threshold_file, thresholds
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.runtime.errors import UserError


class Embedded(NamedTuple):
    """Embeddings of queries and gallery, float32 [n, d] of unit length (one array if they are the same)."""

    query: np.ndarray
    gallery: np.ndarray
    protocol: Protocol


def read(embeddings: Sequence[Path], labels: Sequence[Path]) -> Embedded:
    """Reads one file of each kind, if all images query each other, or two: the queries' and the gallery's.

    Args:
      embeddings: see `arrays.embeddings`.
      labels: see `arrays.labels`; a .parquet of embeddings may hold its own.

    Raises:
      UserError: files are missing, damaged, or do not fit together.
    """
    labels = labels or [path for path in embeddings if path.suffix == '.parquet']
    if len(embeddings) not in (1, 2) or len(labels) != len(embeddings):
        raise UserError(
            f'{len(embeddings)} files of embeddings and {len(labels)} of labels do not fit together; name '
            'one of each, or two of each parted by a comma: the queries and the gallery'
        )
    x, names = [arrays.embeddings(path) for path in embeddings], [arrays.labels(path) for path in labels]
    for rows, own, path, of_labels in zip(x, names, embeddings, labels, strict=True):
        if len(rows) != len(own):
            raise UserError(f'{path} has {len(rows):,} embeddings and {of_labels} has {len(own):,} labels')
    if x[0].shape[1] != x[-1].shape[1]:
        raise UserError(
            f'{embeddings[0]} has {x[0].shape[1]:,} dimensions and {embeddings[1]} has {x[1].shape[1]:,}'
        )
    if names[0].dtype.kind != names[-1].dtype.kind and 'U' in (names[0].dtype.kind, names[-1].dtype.kind):
        raise UserError(f'{labels[0]} and {labels[1]} must both hold numbers or both hold names')
    return Embedded(x[0], x[-1], Protocol(names[0], names[-1], len(x) == 1))


def score(embedded: Embedded, name: str, ks: Sequence[int], kind: str = 'table') -> dict[str, Any]:
    """Prints Recall@K, MAP@R, R-precision, votes and thresholds.

    Args:
      embedded: from `read`.
      name: of the embeddings, the head of the table's column.
      ks: of Recall@K.
      kind: 'table', 'json' or 'csv'; CSV has the shares alone.

    Returns:
      What --format=json prints: the entries of a results.json.
    """
    query, gallery, protocol = embedded
    ranks = recall.ranks(query, gallery, protocol)
    found = result.Result.of(
        ranks, ks, protocol, dataset=f'{query.shape[1]:,} dimensions', crop='', embedding=name
    )
    correct = metrics.correct_neighbors(query, gallery, protocol)
    map_at_r, r_precision = (
        measure(correct, protocol.relevant) for measure in (metrics.map_at_r, metrics.r_precision)
    )
    votes = identification.votes(query, gallery, protocol)
    limits = thresholds.calibrate(thresholds.best(query, gallery, protocol), protocol)
    entries: dict[str, Any] = {
        'embedding': name,
        'protocol': protocol.name,
        'queries': found.queries,
        'gallery': found.gallery,
        'classes': found.classes,
        'dimensions': query.shape[1],
        'unmatched': found.unmatched,
        'recall': {str(k): share for k, share in found.recall.items()},
        'map_at_r': map_at_r,
        'r_precision': r_precision,
        'votes': {str(k): share for k, share in votes.items()},
        'thresholds': limits and threshold_file.as_json(limits),
    }
    if kind == 'json':
        print(json.dumps(entries, indent=1))
        return entries
    if kind == 'csv':
        print('\n'.join(['measure,value', *(f'{measure},{value}' for measure, value in _measures(entries))]))
        return entries
    print(result.recall_table(found))
    print(f'MAP@R {100 * map_at_r:.2f}%, R-precision {100 * r_precision:.2f}%')
    print(identification.votes_line(votes))
    if limits:
        print(identification.thresholds_table(limits, protocol.same))
    return entries


def _measures(entries: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for k, share in entries['recall'].items():
        yield f'recall@{k}', share
    for measure in ('map_at_r', 'r_precision'):
        yield measure, entries[measure]
    for k, share in entries['votes'].items():
        yield f'vote of {k}', share
