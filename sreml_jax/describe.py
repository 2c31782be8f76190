"""Reports the layers, parameters and training memory of a config's model without allocating it."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from sreml_jax.model import init
from sreml_jax.model.ensemble import Ensemble, Trunk
from sreml_jax.model.resnet import BACKBONES, Layers, Stage
from sreml_jax.needs import GIB, checkpoint_size, count, mesh_shape, training_memory
from sreml_jax.run import model_of

LAYERS = ('conv1', 'bn1', 'layer1', 'layer2', 'layer3', 'layer4', 'fc')  # in their order


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
            for name, layer in sorted(layers.items(), key=lambda item: LAYERS.index(item[0]))
        ]
    data, member = mesh_shape(config)
    sizes = config.batch_size, config.image_size, bool(config.skip_nonfinite)
    memory = training_memory(model, variables, data, member, *sizes)
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
