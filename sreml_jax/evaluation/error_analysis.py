"""Error analysis: the neighbors of every query, the hardest classes, the best and worst queries."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from sreml_jax.data.dataset import Dataset
from sreml_jax.retrieval import recall
from sreml_jax.retrieval.nearest import nearest
from sreml_jax.retrieval.protocol import Protocol


class HardClass(NamedTuple):
    """A class whose queries often find another class first.

    Attributes:
      label: of the class.
      queries: its queries that have a match.
      recall: their Recall@1.
      taken_for: label of the class that they most often find instead.
      times: how often they do.
      example: a query that does.
    """

    label: int
    queries: int
    recall: float
    taken_for: int
    times: int
    example: int


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """The neighbors of every query.

    Attributes:
      protocol: labels of queries and gallery.
      ranks: int32 [queries], see `recall.ranks`.
      neighbors: int32 [queries, k], rows of the gallery, the most similar first; never the query itself.
      similarities: float32 [queries, k].
    """

    protocol: Protocol
    ranks: np.ndarray
    neighbors: np.ndarray
    similarities: np.ndarray

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        query: np.ndarray,
        gallery: np.ndarray,
        k: int,
        devices: Sequence[jax.Device] | None = None,
    ) -> 'Retrieved':
        """Finds the k nearest neighbors of each query by the dataset's protocol.

        Args:
          dataset: gives labels and splits.
          query: float32 [queries, d], embeddings of the query split, of unit length.
          gallery: float32 [images, d], of the gallery split; the same array if there is only one split.
          k: neighbors per query.
          devices: see `recall.ranks`.
        """
        protocol = Protocol.of(dataset)
        ranks = recall.ranks(query, gallery, protocol, devices=devices)
        neighbors, similarities = nearest(query, gallery, k, same=protocol.same, devices=devices)
        return cls(protocol, ranks, neighbors, similarities)

    @property
    def correct(self) -> np.ndarray:
        """Whether each neighbor is of its query's class, bool [queries, k]."""
        return self.protocol.gallery_labels[self.neighbors] == self.protocol.query_labels[:, None]

    def hardest(self, number: int) -> list[HardClass]:
        """Returns the classes with the lowest Recall@1, the lowest first; none without an error."""
        first = self.protocol.gallery_labels[self.neighbors[:, 0]]
        wrong = (self.ranks > 0) & (first != self.protocol.query_labels)
        found = []
        for label in np.unique(self.protocol.query_labels[wrong]):
            own = np.flatnonzero((self.protocol.query_labels == label) & (self.ranks != recall.NO_MATCH))
            others, times = np.unique(first[own][wrong[own]], return_counts=True)
            taken_for = others[np.argmax(times)]
            example = own[wrong[own] & (first[own] == taken_for)][0]
            share = float(np.mean(self.ranks[own] == 0))
            found.append(
                HardClass(int(label), len(own), share, int(taken_for), int(np.max(times)), int(example))
            )
        return sorted(found, key=lambda hard: (hard.recall, -hard.queries, hard.label))[:number]

    def best(self, number: int) -> np.ndarray:
        """Returns int [<= number] queries of different classes: those with the most correct neighbors.

        Ties go to the greater mean similarity.
        """
        k = self.neighbors.shape[1]
        possible = np.clip(self.protocol.relevant, 1, k)[:, None]
        among = np.arange(k) < possible
        share = (self.correct & among).sum(1) / possible[:, 0]
        order = np.lexsort((-(self.similarities * among).sum(1) / possible[:, 0], -share))
        return self._one_a_class(order[self.ranks[order] == 0], number)

    def worst(self, number: int) -> np.ndarray:
        """Returns int [<= number] queries of different classes: those whose first match comes latest."""
        order = np.argsort(-self.ranks.astype(np.int64), kind='stable')
        return self._one_a_class(order[self.ranks[order] > 0], number)

    def _one_a_class(self, order: np.ndarray, number: int) -> np.ndarray:
        first = np.unique(self.protocol.query_labels[order], return_index=True)[1]
        return order[np.sort(first)[:number]]
