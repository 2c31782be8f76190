"""What re-ranking gains, and what it costs."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sreml_jax.retrieval import metrics, reranking
from sreml_jax.retrieval.nearest import nearest
from sreml_jax.retrieval.protocol import Protocol

_QUERIES = 1024  # whose candidates are in memory at a time


def measure(
    query: np.ndarray,
    gallery: np.ndarray,
    protocol: Protocol,
    ks: Sequence[int],
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, Any]:
    """Measures the same lists of neighbors twice: ordered by cosine, and ordered by `reranking.rerank`.

    Args:
      query, gallery, protocol, devices: see `recall.ranks`.
      ks: of Recall@K; those beyond the candidates are left out, since re-ranking does not change them.

    Returns:
      {'before' and 'after': {'recall': {K: share}, 'map_at_r', 'r_precision'}, 'milliseconds' for a query}.
    """
    number = max(reranking.CANDIDATES, int(protocol.relevant.max(initial=0)))
    found, _ = nearest(query, gallery, number, same=protocol.same, devices=devices)
    changed = found.copy()
    first = min(reranking.CANDIDATES, found.shape[1])
    began = time.monotonic()
    for start in range(0, len(query), _QUERIES):
        rows = found[start : start + _QUERIES, :first]
        order = reranking.rerank(query[start : start + _QUERIES], gallery[rows])
        changed[start : start + _QUERIES, :first] = np.take_along_axis(rows, order, 1)
    seconds = time.monotonic() - began

    def measures(neighbors: np.ndarray) -> dict[str, Any]:
        correct = protocol.gallery_labels[neighbors] == protocol.query_labels[:, None]
        recall = {str(k): float(correct[:, :k].any(1).mean()) for k in ks if k <= first}
        relevant = protocol.relevant
        return {
            'recall': recall,
            'map_at_r': metrics.map_at_r(correct, relevant),
            'r_precision': metrics.r_precision(correct, relevant),
        }

    milliseconds = 1000 * seconds / max(len(query), 1)
    return {'before': measures(found), 'after': measures(changed), 'milliseconds': milliseconds}


def table(found: dict[str, Any]) -> str:
    """Returns the table of both orders."""
    before, after = found['before'], found['after']
    rows = [(f'R@{k}', share, after['recall'][k]) for k, share in before['recall'].items()]
    rows += [
        (name, before[key], after[key])
        for name, key in (('MAP@R', 'map_at_r'), ('R-precision', 'r_precision'))
    ]
    lines = ['', 'Order        by cosine  re-ranked']
    lines += [f'{name:11}  {100 * one:8.2f}%  {100 * other:8.2f}%' for name, one, other in rows]
    return '\n'.join([*lines, f're-ranking takes {found["milliseconds"]:.1f} ms a query (--rerank)', ''])
