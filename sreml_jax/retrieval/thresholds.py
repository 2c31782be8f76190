"""How similar a match must be to mean anything: error rates of a similarity threshold, on held-out classes.

Each query is asked twice (open-set identification). With its class in the gallery it should be accepted, and
is rejected wrongly if its best correct match lies below the threshold. With its class taken out of the
gallery it should be rejected, and is accepted wrongly if the best image left reaches the threshold.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sreml_jax.retrieval.blocks import Blocks, dot_products, once_per_device, rows_of_block, spread
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.runtime import hosts
from sreml_jax.runtime.xla import BY_LIBRARY

ACCEPTED = (0.01, 0.02, 0.05, 0.1, 0.2)  # shares of false accepts that a table shows


class Best(NamedTuple):
    """The similarities of each query's best correct match and of its best wrong one.

    Attributes:
      own, other: float32 [queries]; -inf if there is none.
    """

    own: np.ndarray
    other: np.ndarray


class Rates(NamedTuple):
    """What a threshold does, on classes that did not choose it.

    Attributes:
      threshold: a match counts if its similarity is at least this.
      false_accepts: share of the queries that find a match although their class is not in the gallery.
      false_rejects: share of the queries, their class in the gallery, without a correct match that counts.
      right: of the queries with a match that counts, their class in the gallery, the share whose best match
        is correct; None if there is no such query.
    """

    threshold: float
    false_accepts: float
    false_rejects: float
    right: float | None


class Thresholds(NamedTuple):
    """The thresholds of an embedding.

    Attributes:
      equal: the rates at the threshold that a search uses: false accepts and rejects are equally frequent.
      table: the rates at each share of false accepts that `ACCEPTED` aims at.
      queries, gallery, classes: how many images and classes they were measured on.
    """

    equal: Rates
    table: list[Rates]
    queries: int
    gallery: int
    classes: int


def best(
    query: np.ndarray,
    gallery: np.ndarray,
    protocol: Protocol,
    *,
    devices: Sequence[jax.Device] | None = None,
    chunk: int | None = None,
) -> Best:
    """Finds the similarities of each query's best correct and best wrong match; NaN is no match.

    Args: see `recall.ranks`. Several hosts share the blocks; all of them must call it.
    """
    devices, same = devices or jax.local_devices(), protocol.same
    found = np.full((2, len(query)), -np.inf, np.float32)
    if not len(query) or not len(gallery):
        return Best(*found)
    size = chunk or rows_of_block(
        (len(query), len(gallery)), query.shape[1], query.itemsize, devices[0].platform
    )
    rows = Blocks(query, np.arange(len(query)), size, devices, alone=same)
    columns = rows if same else Blocks(gallery, np.arange(len(gallery)), size, devices)
    of_query, of_gallery = protocol.numbered
    row_labels = rows.on_devices(of_query, -1)
    column_labels = row_labels if same else columns.on_devices(of_gallery, -1)
    diagonal = once_per_device(np.array([False, True]))

    def find(i: int, j: int, device: jax.Device):
        return _best(
            *(rows.load(i, device), columns.load(j, device)),
            *(row_labels(i, device), column_labels(j, device)),
            diagonal(int(same and i == j), device),
            both=same,
        )

    pairs = [(i, j) for i in range(rows.number) for j in range(i if same else 0, columns.number)]
    greatest = np.full((rows.number, 2, size), -np.inf, np.float32)
    for i, j, (of_rows, of_columns) in spread(hosts.share(pairs), devices, find):
        greatest[i] = np.maximum(greatest[i], of_rows)
        if same and i != j:
            greatest[j] = np.maximum(greatest[j], of_columns)
    combined = hosts.combine(greatest, np.max).transpose(1, 0, 2).reshape(2, -1)
    return Best(*combined[:, : len(query)])


def calibrate(best: Best, protocol: Protocol, seed: int = 0) -> Thresholds | None:
    """Finds thresholds and what they do.

    The threshold comes from all queries. Its rates are measured crosswise: the classes are drawn into two
    halves, and what one half would have chosen is applied to the other, so that no query judges a threshold
    that it has helped to choose.

    Args:
      best: of all queries, from `best`.
      protocol: their labels.
      seed: draws the halves.

    Returns:
      None if no query has a correct match, or none a wrong one, or there are fewer than two classes.
    """
    matched = protocol.relevant > 0
    usable = matched & np.isfinite(best.other)
    classes = np.random.default_rng(seed).permutation(np.unique(protocol.query_labels[usable]))
    if len(classes) < 2:
        return None
    own, other = best.own[usable], best.other[usable]
    in_first = np.isin(protocol.query_labels[usable], classes[: len(classes) // 2])
    halves = [(own[chosen], other[chosen]) for chosen in (in_first, ~in_first)]

    def rates(accepted: float | None) -> Rates:
        def choose(own: np.ndarray, other: np.ndarray) -> float:
            return equal_errors(own, other) if accepted is None else threshold_of(other, accepted)

        crosswise = [_counts(choose(*chooses), *judges) for chooses, judges in (halves, halves[::-1])]
        accepts, rejects, right, passed = np.sum(crosswise, 0)
        return Rates(
            choose(own, other),
            float(accepts / len(own)),
            float(rejects / len(own)),
            float(right / passed) if passed else None,
        )

    return Thresholds(
        rates(None),
        [rates(accepted) for accepted in ACCEPTED],
        len(own),
        len(protocol.gallery_labels),
        len(classes),
    )


def threshold_of(other: np.ndarray, accepted: float) -> float:
    """Returns the least threshold that at most this share of `other` reaches."""
    ordered = np.sort(other)[::-1]
    allowed = int(accepted * len(ordered) + 1e-9)
    if allowed >= len(ordered):
        return float(ordered[-1])
    return float(np.nextafter(ordered[allowed], np.float32(np.inf)))


def equal_errors(own: np.ndarray, other: np.ndarray) -> float:
    """Returns a threshold where false rejects and false accepts are closest, in the middle of its range."""
    candidates = np.unique(np.concatenate([own[np.isfinite(own)], other]))
    rejects = np.searchsorted(np.sort(own), candidates, 'left') / len(own)
    accepts = 1 - np.searchsorted(np.sort(other), candidates, 'left') / len(other)
    closest = int(np.argmin(np.abs(rejects - accepts)))
    # Nothing changes between the similarity before and this one.
    return float(np.mean(candidates[max(closest - 1, 0) : closest + 1], dtype=np.float64))


def curves(best: Best, protocol: Protocol, points: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns thresholds, and all queries' shares of false accepts and false rejects; each float [points]."""
    usable = (protocol.relevant > 0) & np.isfinite(best.other)
    own, other = np.sort(best.own[usable]), np.sort(best.other[usable])
    finite = np.concatenate([own[np.isfinite(own)], other])
    at = np.linspace(finite.min(), finite.max(), points)
    accepts = 1 - np.searchsorted(other, at, 'left') / len(other)
    return at, accepts, np.searchsorted(own, at, 'left') / len(own)


def _counts(threshold: float, own: np.ndarray, other: np.ndarray) -> tuple[int, int, int, int]:
    """Counts false accepts, false rejects, right first matches that count, and queries with any."""
    passed = np.maximum(own, other) >= threshold
    right = passed & (own > other)
    return (
        int(np.sum(other >= threshold)),
        int(np.sum(own < threshold)),
        int(np.sum(right)),
        int(np.sum(passed)),
    )


@functools.partial(jax.jit, static_argnames='both', compiler_options=BY_LIBRARY)
def _best(query, gallery, row_labels, column_labels, diagonal, both):
    """Returns float32 [2, rows] and, if `both`, [2, columns]: the best match's and wrong one's similarity."""
    s = dot_products(query, gallery)
    s = jnp.where(jnp.isnan(s), -jnp.inf, s)
    match = row_labels[:, None] == column_labels[None]
    itself = diagonal & jnp.eye(match.shape[0], match.shape[1], dtype=bool)
    own, other = jnp.where(match & ~itself, s, -jnp.inf), jnp.where(match, -jnp.inf, s)
    of_rows, of_columns = (jnp.stack([own.max(a), other.max(a)]) for a in (1, 0))
    return of_rows, of_columns if both else None
