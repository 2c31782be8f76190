"""Recall@1 by the number of members used of one trained ensemble."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.retrieval.recall import ranks, recall_at

SUBSETS = 10  # at most, for each number of members
IMAGES = 10_000  # at most, of whole classes: the curve takes as long as some 60 evaluations of them


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

    All members' parts have equal norm, so a subset of columns ranks exactly as the smaller ensemble's
    normalized embedding. If there are more than `IMAGES` images, only some classes are used (see `sample`),
    and every recall is higher than on all images.

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

    def recall(chosen: np.ndarray) -> float:
        used = columns(query, of_query, chosen, members)
        others = used if protocol.same else columns(gallery, of_gallery, chosen, members)
        return recall_at(ranks(used, others, protocol, devices=devices), [1])[1]

    curve = []
    for number in numbers(members):
        found = [recall(chosen) for chosen in subsets(members, number, random)]
        deviation = float(np.std(found, ddof=1)) if len(found) > 1 else 0.0
        curve.append(Point(number, len(found), float(np.mean(found)), deviation))
    return curve


def numbers(members: int) -> list[int]:
    """Returns 1, 2, 4, ... and the number of all members."""
    return [*itertools.takewhile(lambda n: n < members, (2**i for i in itertools.count())), members]


def subsets(members: int, number: int, random: np.random.Generator) -> list[np.ndarray]:
    """Draws `SUBSETS` different subsets of `number` members, or returns all if there are no more."""
    if math.comb(members, number) <= SUBSETS:
        return [np.array(chosen) for chosen in itertools.combinations(range(members), number)]
    chosen: dict[tuple[int, ...], None] = {}
    while len(chosen) < SUBSETS:
        chosen[tuple(sorted(random.choice(members, number, replace=False).tolist()))] = None
    return [np.array(c) for c in chosen]


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


def columns(embeddings: np.ndarray, rows: np.ndarray, chosen: np.ndarray, members: int) -> np.ndarray:
    """Copies the parts of the chosen members in the chosen rows: [rows, members * numbers] of fewer."""
    parts = embeddings.reshape(len(embeddings), members, -1)
    return np.ascontiguousarray(parts[np.flatnonzero(rows)[:, None], chosen]).reshape(rows.sum(), -1)
