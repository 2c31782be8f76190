"""A file that stands for ImageNet's weights: random ones, of the right names and shapes."""

from pathlib import Path

import numpy as np

from sreml_jax.model.ensemble import Ensemble
from sreml_jax.model.weights import torchvision


def save_resnet18(path: Path) -> None:
    """Writes the weights of a ResNet-18 as an .npz of float16, with torchvision's names and layouts."""
    random, state = np.random.default_rng(0), {}
    for name, shape in torchvision.torch_shapes(Ensemble('resnet18', 1, 2)).items():
        if len(shape) == 4:
            state[name] = random.normal(0, 0.05, shape).astype(np.float16)
        else:
            state[name] = np.abs(random.normal(1, 0.1, shape)).astype(np.float16)
    np.savez(path, **state)
