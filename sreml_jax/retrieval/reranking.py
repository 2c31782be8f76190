"""k-reciprocal re-ranking of the nearest neighbors of a query (Zhong et al. 2017), among themselves.

If two images are each among the other's nearest, they are more likely to be of one class than if only one
is. The paper looks for such pairs in the whole gallery; here they are looked for among the candidates of
one query, so that the cost does not depend on the size of the gallery.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

CANDIDATES = 100  # nearest neighbors of a query that are put in another order
_NEAR, _EXPANDED, _COSINE = 8, 3, 0.7  # k1, k2 and lambda of the paper, chosen on drawn characters
_BATCH_BYTES = 2**26  # of the largest array


def rerank(query: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Finds a better order of each query's nearest neighbors.

    Args:
      query: float32 [queries, d], rows of unit length.
      candidates: float32 [queries, n, d], each query's nearest neighbors, rows of unit length.

    Returns:
      int32 [queries, n]: of the candidates, the most similar first.
    """
    number = candidates.shape[1]
    size = max(1, _BATCH_BYTES // (4 * (number + 1) * max(number + 1, query.shape[1])))
    orders = [np.empty((0, number), np.int32)]
    for start in range(0, len(query), size):
        part = query[start : start + size, None], candidates[start : start + size]
        images = np.concatenate(part, 1)
        filled = np.zeros((size, *images.shape[1:]), np.float32)  # one shape, one program
        filled[: len(images)] = images
        orders.append(np.asarray(_order(filled))[: len(images)])
    return np.concatenate(orders)


@jax.jit
@jax.vmap
def _order(images: jax.Array) -> jax.Array:
    """Returns the order of images[1:] [n, d] as seen from images[0]; int32 [n]."""
    multiply = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    distance = 1 - multiply(images, images.T)
    place = jnp.argsort(jnp.argsort(distance, 1, stable=True), 1, stable=True)  # 0: the image itself
    near, close = (place <= k for k in (_NEAR, _NEAR // 2))
    # Pairs that have each other among their nearest; and the images of those whose own pairs mostly agree.
    mutual, core = near & near.T, (close & close.T).astype(jnp.float32)
    shared = multiply(mutual.astype(jnp.float32), core.T)
    agrees = mutual & (shared > 2 / 3 * core.sum(1))
    expanded = mutual | (multiply(agrees.astype(jnp.float32), core) > 0)
    weights = jnp.where(expanded, jnp.exp(-2 * distance), 0)
    weights /= weights.sum(1, keepdims=True)
    weights = multiply((place < _EXPANDED).astype(jnp.float32), weights) / _EXPANDED
    common = jnp.minimum(weights[0], weights[1:]).sum(1)
    jaccard = 1 - common / (2 - common)
    return jnp.argsort((1 - _COSINE) * jaccard + _COSINE * distance[0, 1:], stable=True).astype(jnp.int32)
