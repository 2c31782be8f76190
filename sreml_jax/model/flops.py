"""How much arithmetic the ensemble is."""

import math

from sreml_jax.model.ensemble import Ensemble
from sreml_jax.model.layers import layers


def forward_flops(model: Ensemble, image_size: int) -> int:
    """Counts the floating-point operations of one image's forward pass, in convolutions and classifiers.

    A multiplication and an addition are two. The backward pass takes twice as many.
    """
    return sum(
        2 * layer.copies * math.prod(layer.outputs[:-1]) * math.prod(layer.kernel)
        for layer in layers(model, image_size)
    )
