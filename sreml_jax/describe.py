"""Reports the layers, parameters and training memory of a config's model without allocating it."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from sreml_jax.model import init
from sreml_jax.model.cost import kept_bytes
from sreml_jax.model.ensemble import Ensemble, Trunk
from sreml_jax.model.resnet import BACKBONES, Layers, Stage
from sreml_jax.run import model_of
from sreml_jax.runtime import sharding

GIB = 2**30


def describe(config: ConfigDict) -> str:
    """Returns layers, parameter counts, embedding size and training memory per device, as text."""
    model = model_of(config)
    variables = init.shapes(model)
    params = variables['params']
    trunk, members = params['trunk'], params['members']
    lines = [
        f'{config.model_type}, width {config.width}, stem {config.stem}, pool {config.pool}, '
        f'{config.image_size}x{config.image_size} images; '
        f'{config.ensemble_size} members of {config.meta_class_size} meta classes',
        '',
        f'{"part":<10}{"layer":<10}{"output":>16}{"parameters":>16}',
    ]
    outputs = layer_outputs(model, config.image_size)
    for part, layers in (('trunk', trunk), ('member', members)):
        shared = 1 if part == 'trunk' else config.ensemble_size
        lines += [
            f'{part:<10}{name:<10}{"x".join(map(str, outputs[name])) if name in outputs else "":>16}'
            f'{count(layer) // shared:>16,}'
            for name, layer in sorted(layers.items(), key=lambda item: LAYER_ORDER.index(item[0]))
        ]
    data, member = mesh_shape(config)
    memory = training_memory(model, variables, data, member, config.batch_size, config.image_size)
    lines += [
        '',
        f'{"parameters, total":<26}{count(params):>16,}',
        f'{"parameters, trunk":<26}{count(trunk):>16,}',
        f'{"parameters, one member":<26}{count(members) // config.ensemble_size:>16,}',
        f'{"dimensions of an embedding":<26}{model.dimensions:>16,}',
        '',
        f'training memory per device, batch {config.batch_size} on {data} x {member} (data x member) '
        f'{jax.default_backend().upper()}(s), {model.dtype} computation:',
    ]
    lines += [f'  {name:<40}{size / GIB:>8.2f} GiB' for name, size in memory.items()]
    lines.append(f'  {"total":<40}{sum(memory.values()) / GIB:>8.2f} GiB')
    lines += ['', f'{"a checkpoint on disk":<42}{checkpoint_size(variables) / GIB:>8.2f} GiB']
    return '\n'.join(lines)


def mesh_shape(config: ConfigDict) -> tuple[int, int]:
    """Returns (data, member) devices of the config's mesh, without making it; see `sharding.mesh_shape`."""
    chosen = len(config.gpu_ids) * jax.process_count() or jax.device_count()
    return sharding.mesh_shape(config, math.prod(config.mesh) if config.mesh else chosen)


def device_memory(config: ConfigDict) -> int:
    """Returns the bytes that a training step holds on each device."""
    return sum(on_device(config).values())


def on_device(config: ConfigDict) -> dict[str, int]:
    """Returns what a training step holds on each device of the config's mesh, in bytes by kind."""
    model = model_of(config)
    shape = mesh_shape(config)
    return training_memory(model, init.shapes(model), *shape, config.batch_size, config.image_size)


def checkpoint_size(variables: dict[str, Any]) -> int:
    """Returns the bytes of a checkpoint: parameters, Adam's two moments and BatchNorm statistics."""
    return 3 * size(variables['params']) + size(variables['batch_stats'])


LAYER_ORDER = ('conv1', 'bn1', 'layer1', 'layer2', 'layer3', 'layer4', 'fc')


def count(tree: Any) -> int:
    """Returns how many numbers a tree of arrays, or of their shapes, holds."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def size(tree: Any) -> int:
    """Returns the bytes of a tree of arrays, or of their shapes."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def layer_outputs(model: Ensemble, image_size: int) -> dict[str, tuple[int, ...]]:
    """Returns layer -> [height, width, channels] of its output, for the layers that are stages."""
    backbone, layers = BACKBONES[model.model_type], Layers(train=False)
    stages: dict[str, nn.Module] = {'layer1': Trunk(backbone, layers, model.width, model.stem)}
    stages |= {f'layer{i}': Stage(i, backbone, layers, model.width) for i in (2, 3, 4)}
    x, outputs = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32), {}
    for name, stage in stages.items():
        x, _ = jax.eval_shape(functools.partial(stage.init_with_output, jax.random.key(0)), x)
        outputs[name] = x.shape[1:]
    return outputs


def training_memory(
    model: Ensemble, variables: dict[str, Any], data: int, member: int, batch_size: int, image_size: int
) -> dict[str, int]:
    """Returns what a training step holds on each device of a data x member mesh, in bytes by kind."""

    def of_device(tree):
        def share(path, x):
            of_members = any(getattr(k, 'key', None) == 'members' for k in path)
            return jax.ShapeDtypeStruct(
                (x.shape[0] // member, *x.shape[1:]) if of_members else x.shape, x.dtype
            )

        return jax.tree_util.tree_map_with_path(share, tree)

    params, batch_stats = of_device(variables['params']), of_device(variables['batch_stats'])
    gradients = size(params)
    if model.remat and jax.default_backend() == 'gpu':
        # XLA updates a stage before it computes the activations of earlier ones again.
        gradients = max(size(stage) for part in params.values() for stage in part.values())
    local = model.clone(members=model.members // member)
    return {
        'parameters and statistics': size(params) + size(batch_stats),
        "Adam's moments": 2 * size(params),
        'gradients': gradients,
    } | kept_bytes(local, image_size, batch_size // data)
