"""k-reciprocal re-ranking beside the paper's steps, written with sets, on one query at a time."""

import numpy as np
import pytest

from sreml_jax.retrieval import reranking

K1, K2, SHARE = 8, 3, 0.7


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def by_sets(query: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The order of the candidates, by the steps of Zhong et al. (2017), sections 3.2 to 3.5."""
    images = np.concatenate([query[None], candidates]).astype(np.float64)
    distance = 1 - images @ images.T
    order = [np.argsort(row, kind='stable').tolist() for row in distance]

    def mutual(i: int, k: int) -> set[int]:
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    weights = np.zeros(distance.shape)
    for i in range(len(images)):
        expanded = set(mutual(i, K1))
        for j in mutual(i, K1):
            core = mutual(j, K1 // 2)
            if len(core & mutual(i, K1)) > 2 / 3 * len(core):
                expanded |= core
        for j in expanded:
            weights[i, j] = np.exp(-2 * distance[i, j])
    weights /= weights.sum(1, keepdims=True)
    weights = np.stack([weights[row[:K2]].mean(0) for row in order])
    final = []
    for j in range(1, len(images)):
        common = np.minimum(weights[0], weights[j]).sum()
        final.append((1 - SHARE) * (1 - common / (2 - common)) + SHARE * distance[0, j])
    return np.argsort(final, kind='stable')


@pytest.mark.parametrize(('queries', 'number'), [(2, 100), (3, 5), (2, 1)])
def test_the_order_of_the_paper(queries, number):
    random = np.random.default_rng(number)
    centers = random.normal(size=(6, 8))
    query = unit(centers[:queries] + random.normal(0, 0.6, (queries, 8)))
    candidates = unit(
        centers[random.integers(0, 6, (queries, number))] + random.normal(0, 0.6, (queries, number, 8))
    )
    found = reranking.rerank(query, candidates)
    assert found.shape == (queries, number) and found.dtype == np.int32
    for one, others, order in zip(query, candidates, found, strict=True):
        assert order.tolist() == by_sets(one, others).tolist()


def test_batches_do_not_matter(monkeypatch):
    random = np.random.default_rng(0)
    query, candidates = unit(random.normal(size=(7, 4))), unit(random.normal(size=(7, 12, 4)))
    whole = reranking.rerank(query, candidates)
    monkeypatch.setattr(reranking, '_BATCH_BYTES', 4 * 13 * 13 * 3)  # three queries at a time
    np.testing.assert_array_equal(reranking.rerank(query, candidates), whole)
    assert reranking.rerank(query[:0], candidates[:0]).shape == (0, 12)
