"""torchvision's names and layouts of weights, and this model's."""

import numpy as np

PARAMETERS = {
    'kernel': 'weight',
    'scale': 'weight',
    'bias': 'bias',
    'mean': 'running_mean',
    'var': 'running_var',
}


def torch_name(path: tuple[str, ...]) -> str:
    """Returns torchvision's name of one of our variables, without the member it belongs to.

    ('trunk', 'conv1', 'kernel') -> 'conv1.weight'; ('members', 'layer2', '0', 'downsample_bn', 'mean') ->
    'layer2.0.downsample.1.running_mean'.
    """
    *modules, variable = path[1:]
    shortcut = {'downsample_conv': 'downsample.0', 'downsample_bn': 'downsample.1'}
    return '.'.join([*(shortcut.get(m, m) for m in modules), PARAMETERS[variable]])


def from_torch(array: np.ndarray) -> np.ndarray:
    """Returns a torch tensor's values in our layout: convolutions OIHW -> HWIO, linear weights transposed."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
