"""A map of embeddings in the plane: neighbors there are similar."""

from typing import NamedTuple

import numpy as np

MOST = 2000  # images on a map: t-SNE takes seconds, and each point can be seen
_LEAST = 8  # images; fewer have no neighborhoods


class Map(NamedTuple):
    """Where images lie.

    Attributes:
      chosen: int64 [points], ascending: which images are shown.
      places: float [points, 2] in 0..1; both axes have the same scale.
    """

    chosen: np.ndarray
    places: np.ndarray


def lay_out(embeddings: np.ndarray, most: int = MOST) -> Map | None:
    """Lays embeddings out by t-SNE (van der Maaten and Hinton 2008, by scikit-learn), the same in each call.

    Args:
      embeddings: float32 [images, d], rows of unit length; rows with NaN are left out.
      most: images to show; if there are more, a random choice of them.

    Returns:
      The map, or None if there are too few images, or if all are equal.
    """
    from sklearn.manifold import TSNE

    chosen = np.flatnonzero(np.isfinite(embeddings).all(1))
    if len(chosen) > most:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, most, replace=False))
    shown = embeddings[chosen]
    if len(shown) < _LEAST or np.ptp(shown, 0).max() == 0:
        return None
    # On the unit sphere the Euclidean distance orders as the cosine does.
    tsne = TSNE(perplexity=min(30, (len(shown) - 1) / 3), init='pca', random_state=0)
    places = tsne.fit_transform(shown).astype(float)
    places -= (places.max(0) + places.min(0)) / 2
    return Map(chosen, places / np.ptp(places, 0).max() + 0.5)
