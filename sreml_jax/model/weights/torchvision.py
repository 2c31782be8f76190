"""Pretrained weights: torchvision's names and layouts, mapped to this model's variables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from sreml_jax.model import init
from sreml_jax.model.ensemble import Ensemble
from sreml_jax.model.weights import files, hub
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable

PARAMETERS = {
    'kernel': 'weight',
    'scale': 'weight',
    'bias': 'bias',
    'mean': 'running_mean',
    'var': 'running_var',
}
SHOWN = 10  # names in a complaint


def torch_name(path: tuple[str, ...]) -> str:
    """Returns torchvision's name of one of our variables, without its member.

    ('trunk', 'conv1', 'kernel') -> 'conv1.weight'; ('members', 'layer2', '0', 'downsample_bn', 'mean') ->
    'layer2.0.downsample.1.running_mean'.
    """
    *modules, variable = path[1:]
    shortcut = {'downsample_conv': 'downsample.0', 'downsample_bn': 'downsample.1'}
    return '.'.join([*(shortcut.get(m, m) for m in modules), PARAMETERS[variable]])


def from_torch(array: np.ndarray) -> np.ndarray:
    """Returns a torch tensor's values in our layout: convolutions OIHW -> HWIO, linear weights transposed."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def torch_shapes(model: Ensemble) -> dict[str, tuple[int, ...]]:
    """Returns torchvision's name -> shape of all pretrained arrays; the classifier is not among them."""
    shapes = {}
    for (_, *path), x in flatten_dict(init.shapes(model)).items():
        if 'fc' not in path:
            shape = x.shape[1:] if path[0] == 'members' else x.shape
            shapes[torch_name(path)] = (*shape[:-3:-1], *shape[:-2])  # HWIO -> OIHW
    return shapes


def read(source: str, model: Ensemble) -> dict[str, np.ndarray]:
    """Reads the weights that a fresh model starts from.

    Args:
      source: value of config.weights: 'imagenet', a file that `files.read` reads, or 'none'.
      model: the model whose backbone they fit.

    Returns:
      Torchvision's name -> array in torch's layout, exactly those of `torch_shapes`; nothing for 'none'.

    Raises:
      UserError: they cannot be fetched or read, belong to another model, or are not finite.
    """
    if source == 'none':
        return {}
    path = hub.fetch(model.model_type) if source == 'imagenet' else Path(source).expanduser()
    weights = {
        name: array
        for name, array in files.read(path).items()
        # Another classifier, and a count that only torch keeps.
        if name not in ('fc.weight', 'fc.bias') and not name.endswith('.num_batches_tracked')
    }
    if complaints := differences(weights, torch_shapes(model)):
        raise UserError(
            f'{path} does not hold the weights of a {model.model_type} of width {model.width}: '
            f'{"; ".join(complaints)}; set config.weights, or config.model_type, so that they agree'
        )
    if faults := _faults(weights):
        raise UserError(
            f'{path} holds weights that no network can start from: {_listed(faults)}; get it again, or set '
            'config.weights to another'
        )
    return weights


def check_there(source: str, model_type: str) -> None:
    """Raises UserError if the weights that config.weights names are not there and cannot be fetched."""
    if source == 'imagenet':
        hub.fetch(model_type)
    elif source != 'none':
        files.refuse_missing(Path(source).expanduser())


def differences(weights: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Returns what is missing, unexpected or misshapen, in words; empty if the weights fit."""
    other = [
        f'{name} is {weights[name].dtype} {weights[name].shape} instead of floating {shape}'
        for name, shape in wanted.items()
        if name in weights
        and not (weights[name].shape == shape and jnp.issubdtype(weights[name].dtype, jnp.floating))
    ]
    kinds = {
        'missing are ': [name for name in wanted if name not in weights],
        'unexpected are ': [name for name in weights if name not in wanted],
        '': other,
    }
    return [kind + _listed(names) for kind, names in kinds.items() if names]


def _faults(weights: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the arrays that hold NaN, infinity (in float32) or a negative variance, in words."""
    faults = []
    for name, array in weights.items():
        with np.errstate(over='ignore', invalid='ignore'):
            values = np.asarray(array, np.float32)
        if not np.isfinite(values).all():
            faults.append(f'{name} is not finite')
        elif name.endswith('.running_var') and (values < 0).any():
            faults.append(f'{name} is negative')
    return faults


def _listed(names: list[str]) -> str:
    shown = ', '.join(printable(name, 80) for name in names[:SHOWN])
    return shown + (f' and {len(names) - SHOWN} more' if len(names) > SHOWN else '')


def place(weights: Mapping[str, np.ndarray], shapes: Any, seed: int, shardings: Any) -> Any:
    """Puts pretrained weights onto the devices, the same for every member, and draws the rest.

    The host holds the arrays of one member only: every shard is made from a view.

    Args:
      weights: from `read`.
      shapes, seed, shardings: see `init.draw`.

    Returns:
      All variables, float32.
    """
    shapes, shardings = flatten_dict(shapes), flatten_dict(shardings)
    names = {path: torch_name(path[1:]) for path in shapes}
    drawn = [path for path, name in names.items() if name not in weights]
    variables = flatten_dict(
        init.draw(
            unflatten_dict({path: shapes[path] for path in drawn}),
            seed,
            unflatten_dict({path: shardings[path] for path in drawn}),
        )
    )
    for path in [path for path in shapes if path not in variables]:
        shape = shapes[path].shape
        array = np.ascontiguousarray(from_torch(weights[names[path]]), np.float32)
        whole = np.broadcast_to(array, shape)
        variables[path] = jax.make_array_from_callback(shape, shardings[path], whole.__getitem__)
    return unflatten_dict(variables)
