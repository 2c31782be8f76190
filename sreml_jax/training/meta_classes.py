"""Which meta class each training class belongs to, for each member."""

import numpy as np


def draw(classes: int, members: int, meta_classes: int, seed: int) -> np.ndarray:
    """Draws every member's own random, balanced grouping of the classes.

    Every meta class of a member gets floor or ceil of classes / meta_classes classes; which ones get
    the extra class is random too. Members are independent of each other.

    Args:
      classes: training classes, at least meta_classes.
      members: of the ensemble.
      meta_classes: of each member.
      seed: of the run; it determines the table.

    Returns:
      int32 [members, classes], values in 0..meta_classes-1.

    References: the seed; Xuan, Souvenir, Pless, "Deep Randomized Ensembles for Metric Learning" (DREML).
    """
    rng = np.random.default_rng((seed, classes, members, meta_classes))
    sizes = np.arange(classes) % meta_classes
    table = [rng.permutation(rng.permutation(meta_classes)[sizes]) for _ in range(members)]
    return np.stack(table).astype(np.int32)
