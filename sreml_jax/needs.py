"""What a training step holds in memory, and what a checkpoint takes, by estimate: nothing is allocated."""

import math
from typing import Any

import jax
from ml_collections import ConfigDict

from sreml_jax.model import init
from sreml_jax.model.conv import implicit
from sreml_jax.model.cost import kept_bytes
from sreml_jax.model.ensemble import Ensemble
from sreml_jax.run import model_of
from sreml_jax.runtime import sharding
from sreml_jax.training.step import narrow_kernels

GIB = 2**30


def device_memory(config: ConfigDict) -> int:
    """Returns the bytes that a training step holds on each device."""
    return sum(on_device(config).values())


def on_device(config: ConfigDict) -> dict[str, int]:
    """Returns what a training step holds on each device of the config's mesh, in bytes by kind."""
    model = model_of(config)
    shape = mesh_shape(config)
    sizes = config.batch_size, config.image_size, bool(config.skip_nonfinite)
    return training_memory(model, init.shapes(model), *shape, *sizes)


def training_memory(
    model: Ensemble,
    variables: dict[str, Any],
    data: int,
    member: int,
    batch_size: int,
    image_size: int,
    skips: bool = False,
) -> dict[str, int]:
    """Returns what a training step holds on each device of a data x member mesh, in bytes by kind.

    skips: an update may be skipped, so that it waits for all gradients.
    """

    def of_device(tree):
        def share(path, x):
            of_members = any(getattr(k, 'key', None) == 'members' for k in path)
            return jax.ShapeDtypeStruct(
                (x.shape[0] // member, *x.shape[1:]) if of_members else x.shape, x.dtype
            )

        return jax.tree_util.tree_map_with_path(share, tree)

    params, batch_stats = of_device(variables['params']), of_device(variables['batch_stats'])
    kernels = size(jax.eval_shape(lambda params: narrow_kernels(params, model.dtype), params))
    local = model.clone(members=model.members // member)
    gradients = size(params)
    by_kernels = local.members > 1 and model.conv == 'auto' and implicit.serves(model.dtype)
    if not skips and (by_kernels or (model.remat and jax.default_backend() == 'gpu')):
        # XLA updates a stage before it computes the gradients of earlier ones.
        gradients = max(size(stage) for part in params.values() for stage in part.values())
    if by_kernels:
        gradients //= 2  # they stay in bfloat16; XLA's ways need as much again for patches
    return {
        'parameters and statistics': size(params) + size(batch_stats),
        **({f'kernels in {model.dtype}': kernels} if kernels else {}),
        "Adam's moments": 2 * size(params),
        'gradients': gradients,
    } | kept_bytes(local, image_size, batch_size // data, by_kernels)


def checkpoint_size(variables: dict[str, Any]) -> int:
    """Returns the bytes of a checkpoint: parameters, Adam's two moments and BatchNorm statistics."""
    return 3 * size(variables['params']) + size(variables['batch_stats'])


def mesh_shape(config: ConfigDict) -> tuple[int, int]:
    """Returns (data, member) devices of the config's mesh, without making it; see `sharding.mesh_shape`."""
    chosen = len(config.gpu_ids) * jax.process_count() or jax.device_count()
    return sharding.mesh_shape(config, math.prod(config.mesh) if config.mesh else chosen)


def count(tree: Any) -> int:
    """Returns how many numbers a tree of arrays, or of their shapes, holds."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def size(tree: Any) -> int:
    """Returns the bytes of a tree of arrays, or of their shapes."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
