"""The order in which a run sees its training images: a function of (seed, epoch) alone."""

import numpy as np


def images_per_epoch(labels: np.ndarray, max_images_per_class: int = 0) -> int:
    """Returns how many images `epoch_order` yields in each epoch."""
    if not max_images_per_class:
        return len(labels)
    return int(np.minimum(np.bincount(labels), max_images_per_class).sum())


def epoch_order(
    seed: int, epoch: int, labels: np.ndarray, max_images_per_class: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one epoch: which image comes when, and which are mirrored.

    Args:
      seed: of the run.
      epoch: counted from 0.
      labels: int [images]; class of each training image.
      max_images_per_class: at most so many images of a class, drawn anew each epoch; 0 takes all.

    Returns:
      order: int64 [n]; every image once (or the epoch's choice of at most N a class), shuffled.
      flip: bool [n]; whether that image is mirrored left to right.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(labels))
    if max_images_per_class:
        by_class = np.argsort(labels[order], kind='stable')  # order within a class stays random
        first = np.searchsorted(labels[order][by_class], labels[order][by_class])
        rank = np.arange(len(order)) - first
        order = order[np.sort(by_class[rank < max_images_per_class])]
    return order, rng.random(len(order)) < 0.5
