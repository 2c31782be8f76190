"""What was retrieved for every query, and where it fails."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from sreml_jax.data.dataset import Dataset
from sreml_jax.retrieval import recall
from sreml_jax.retrieval.search import nearest


class HardClass(NamedTuple):
    """A class of which many queries find another class first.

    Attributes:
      label: of the class.
      queries: its images that were queries and have a match.
      recall: Recall@1 among them.
      taken_for: label of the class that is most often found instead.
      times: how often it is.
      example: a query that finds it.
    """

    label: int
    queries: int
    recall: float
    taken_for: int
    times: int
    example: int


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """The neighbours of every query.

    Attributes:
      query_labels, gallery_labels: int [queries], [images].
      ranks: int32 [queries], as of `recall.ranks`.
      neighbours: int32 [queries, k], rows of the gallery, the most similar first; never the query itself.
      similarities: float32 [queries, k].
      relevant: int [queries]; correct matches that the gallery holds.
    """

    query_labels: np.ndarray
    gallery_labels: np.ndarray
    ranks: np.ndarray
    neighbours: np.ndarray
    similarities: np.ndarray
    relevant: np.ndarray

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        query: np.ndarray,
        gallery: np.ndarray,
        k: int,
        devices: Sequence[jax.Device] | None = None,
    ) -> 'Retrieved':
        """Finds the k nearest of each query by the dataset's protocol.

        Args:
          dataset: gives labels and splits.
          query: float32 [queries, d], embeddings of the query split, of unit length.
          gallery: float32 [images, d], of the gallery split; the same where there is but one split.
          k: neighbours of each.
          devices: to search on; all local ones where not given.
        """
        splits = dataset.evaluation_splits
        labels = dataset.labels[splits[0]], dataset.labels[splits[1]]
        same = splits[0] == splits[1]
        ranks = recall.ranks(query, gallery, *labels, same=same, devices=devices)
        neighbours, similarities = nearest(query, gallery, k, same=same, devices=devices)
        classes, counts = np.unique(labels[1], return_counts=True)
        count = dict(zip(classes.tolist(), counts.tolist(), strict=True))
        relevant = np.array([count.get(label, same) - same for label in labels[0].tolist()])
        return cls(*labels, ranks, neighbours, similarities, relevant)

    @property
    def correct(self) -> np.ndarray:
        """Whether each neighbour is of its query's class, bool [queries, k]."""
        return self.gallery_labels[self.neighbours] == self.query_labels[:, None]

    def hardest(self, number: int) -> list[HardClass]:
        """Returns the classes of the lowest Recall@1, the lowest first; only those that are missed at all."""
        first = self.gallery_labels[self.neighbours[:, 0]]
        wrong = (self.ranks > 0) & (first != self.query_labels)
        found = []
        for label in np.unique(self.query_labels[wrong]):
            own = np.flatnonzero((self.query_labels == label) & (self.ranks != recall.NO_MATCH))
            others, times = np.unique(first[own][wrong[own]], return_counts=True)
            taken_for = others[np.argmax(times)]
            example = own[wrong[own] & (first[own] == taken_for)][0]
            share = float(np.mean(self.ranks[own] == 0))
            found.append(
                HardClass(int(label), len(own), share, int(taken_for), int(np.max(times)), int(example))
            )
        return sorted(found, key=lambda hard: (hard.recall, -hard.queries, hard.label))[:number]

    def best(self, number: int) -> np.ndarray:
        """Returns int [<= number] queries, one a class: most of what could be right is, then most alike."""
        k = self.neighbours.shape[1]
        possible = np.clip(self.relevant, 1, k)[:, None]
        among = np.arange(k) < possible
        share = (self.correct & among).sum(1) / possible[:, 0]
        order = np.lexsort((-(self.similarities * among).sum(1) / possible[:, 0], -share))
        return self._one_a_class(order[self.ranks[order] == 0], number)

    def worst(self, number: int) -> np.ndarray:
        """Returns int [<= number] queries, one a class: the first right match comes last, and not first."""
        order = np.argsort(-self.ranks.astype(np.int64), kind='stable')
        return self._one_a_class(order[self.ranks[order] > 0], number)

    def _one_a_class(self, order: np.ndarray, number: int) -> np.ndarray:
        first = np.unique(self.query_labels[order], return_index=True)[1]
        return order[np.sort(first)[:number]]
