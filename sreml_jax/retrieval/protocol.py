"""Who queries whom: the labels of queries and gallery, and whether they are the same images."""

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sreml_jax.data.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A retrieval protocol, without the embeddings.

    Attributes:
      query_labels: int [queries].
      gallery_labels: int [images].
      same: queries and gallery are the same images; each image queries all the others.

    Raises:
      ValueError: labels that are not one-dimensional, or `same` with two sets of labels.
    """

    query_labels: np.ndarray
    gallery_labels: np.ndarray
    same: bool

    def __post_init__(self) -> None:
        for name in ('query_labels', 'gallery_labels'):
            labels = np.asarray(getattr(self, name))
            if labels.ndim != 1:
                raise ValueError(f'{name} must be [images], one label a row, not {labels.shape}')
            object.__setattr__(self, name, labels)
        if self.same and len(self.query_labels) != len(self.gallery_labels):
            raise ValueError(
                f'same=True, but {len(self.query_labels)} queries and '
                f'{len(self.gallery_labels)} gallery images'
            )

    @classmethod
    def of(cls, dataset: 'Dataset') -> 'Protocol':
        """Returns the protocol of a dataset's evaluation splits."""
        query, gallery = dataset.evaluation_splits
        return cls(dataset.labels[query], dataset.labels[gallery], query == gallery)

    @property
    def name(self) -> str:
        """'self-retrieval' or 'query/gallery'."""
        return 'self-retrieval' if self.same else 'query/gallery'

    @functools.cached_property
    def relevant(self) -> np.ndarray:
        """The number of correct matches in the gallery for each query, itself excluded; int64 [queries]."""
        classes, counts = np.unique(self.gallery_labels, return_counts=True)
        if not len(classes):
            return np.zeros(len(self.query_labels), np.int64)
        at = np.minimum(np.searchsorted(classes, self.query_labels), len(classes) - 1)
        return np.where(classes[at] == self.query_labels, counts[at] - self.same, 0)

    @functools.cached_property
    def numbered(self) -> tuple[np.ndarray, np.ndarray]:
        """The labels of queries and gallery, numbered from 0 in ascending order; int32 each."""
        labels = np.concatenate([self.query_labels, self.gallery_labels])
        query, gallery = np.split(np.unique(labels, return_inverse=True)[1], [len(self.query_labels)])
        return query.astype(np.int32), gallery.astype(np.int32)

    def of_classes(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, 'Protocol']:
        """Restricts the protocol to some classes.

        Returns:
          queries, gallery: bool [queries] and [images]; which rows stay.
          protocol: of these rows.
        """
        queries, gallery = (np.isin(labels, classes) for labels in (self.query_labels, self.gallery_labels))
        return queries, gallery, Protocol(self.query_labels[queries], self.gallery_labels[gallery], self.same)
