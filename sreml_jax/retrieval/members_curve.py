"""Recall@1 by the number of members used of one trained ensemble."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.retrieval.recall import ranks, recall_at
from sreml_jax.retrieval.subsets import recall_at_1

SUBSETS = 10  # at most, for each number of members
IMAGES = 10_000  # at most, of whole classes; SOP's 60,502 images would take 36 times as long


class Point(NamedTuple):
    """Recall@1 with some number of members.

    Attributes:
      members: their number.
      subsets: random subsets of that size.
      mean: mean Recall@1 of the subsets, 0..1.
      deviation: standard deviation of their Recall@1 (n - 1); 0 for one subset.
    """

    members: int
    subsets: int
    mean: float
    deviation: float


def members_curve(
    query: np.ndarray,
    gallery: np.ndarray,
    protocol: Protocol,
    *,
    members: int,
    devices: Sequence[jax.Device] | None = None,
    seed: int = 0,
) -> list[Point]:
    """Computes Recall@1 for 1, 2, 4, ... and all members, over random subsets of them.

    All members' parts have equal norm, so a subset of columns ranks as the smaller ensemble's normalized
    embedding. If there are more than `IMAGES` images, only some classes are used (see `sample`), and every
    recall is higher than on all images.

    Args:
      query: float32 [queries, members * dimensions], made by `ensemble.embed`.
      gallery: float32 [images, members * dimensions].
      protocol: labels of both.
      members: number of the ensemble's members.
      devices: see `recall.ranks`.
      seed: draws the subsets and the classes.
    """
    random = np.random.default_rng(seed)
    of_query, of_gallery, protocol = protocol.of_classes(sample(protocol, random))
    query = query if of_query.all() else query[of_query]
    gallery = query if protocol.same else gallery if of_gallery.all() else gallery[of_gallery]
    drawn = {number: subsets(members, number, random) for number in numbers(members)[:-1]}
    # The last point is that of the table: the same program, and the same rounding.
    recall = recall_at(ranks(query, gallery, protocol, devices=devices), [1])[1]
    whole = Point(members, 1, recall, 0.0)
    if not drawn:
        return [whole]
    chosen = np.concatenate(list(drawn.values()))
    recalls = recall_at_1(query, gallery, protocol, chosen, devices=devices)
    of_numbers = np.split(recalls, np.cumsum([len(c) for c in drawn.values()])[:-1])
    return [*map(_point, drawn, of_numbers), whole]


def _point(number: int, recalls: np.ndarray) -> Point:
    """Returns mean and standard deviation of the recalls of `number` members."""
    deviation = float(np.std(recalls, ddof=1)) if len(recalls) > 1 else 0.0
    return Point(number, len(recalls), float(np.mean(recalls)), deviation)


def numbers(members: int) -> list[int]:
    """Returns 1, 2, 4, ... and the number of all members."""
    return [*itertools.takewhile(lambda n: n < members, (2**i for i in itertools.count())), members]


def subsets(members: int, number: int, random: np.random.Generator) -> np.ndarray:
    """Draws `SUBSETS` different subsets of `number` members, or returns all if there are no more.

    Returns:
      bool [subsets, members].
    """
    if math.comb(members, number) <= SUBSETS:
        chosen = [list(c) for c in itertools.combinations(range(members), number)]
    else:
        drawn: dict[tuple[int, ...], None] = {}
        while len(drawn) < SUBSETS:
            drawn[tuple(sorted(random.choice(members, number, replace=False).tolist()))] = None
        chosen = [list(c) for c in drawn]
    return np.array([np.isin(np.arange(members), c) for c in chosen])


def sample(protocol: Protocol, random: np.random.Generator) -> np.ndarray:
    """Draws whole classes with at most `IMAGES` images in total; returns their labels."""
    images = protocol.query_labels
    if not protocol.same:
        images = np.concatenate([images, protocol.gallery_labels])
    classes, counts = np.unique(images, return_counts=True)
    if len(images) <= IMAGES:
        return classes
    order = random.permutation(len(classes))
    return classes[order[: max(1, np.searchsorted(np.cumsum(counts[order]), IMAGES, 'right'))]]
