"""The class of an image by the vote of its nearest neighbors."""

import numpy as np

NO_CLASS = -1  # the label of an image that does not vote, and of a result without votes


def vote(labels: np.ndarray, similarities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the class with the most neighbors; among equals, the one with the greater sum of similarities.

    Args:
      labels: int [queries, k], the classes of each query's neighbors; NO_CLASS does not vote.
      similarities: float32 [queries, k].

    Returns:
      labels: int [queries]; NO_CLASS if nobody votes.
      votes: int [queries], for that class.
    """
    if not labels.shape[1]:
        return np.full(len(labels), NO_CLASS), np.zeros(len(labels), int)
    voters = labels != NO_CLASS
    alike = (labels[:, :, None] == labels[:, None]) & voters[:, :, None] & voters[:, None]
    votes = alike.sum(2)
    weights = (alike * similarities[:, None].astype(np.float64)).sum(2)
    most = votes == votes.max(1, keepdims=True)
    best = np.argmax(np.where(most, weights, -np.inf), 1)
    rows = np.arange(len(labels))
    return np.where(votes[rows, best] > 0, labels[rows, best], NO_CLASS), votes[rows, best]
