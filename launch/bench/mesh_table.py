"""How far a result depends on the mesh: python launch/bench/mesh_table.py

Trains small ensembles of a BasicBlock and of a Bottleneck backbone for 5 steps on meshes of virtual CPU
devices, in float64, where rounding hides nothing, or with --dtype=float32. A row says how far a mesh is from
one device: the largest difference of the losses; then, of the first step, the largest relative difference of
the norms of arrays' gradients, and the length of the difference of the trunk's gradients, relative to theirs.
"""

import argparse
import functools
import os
import sys
from pathlib import Path

import numpy as np

MESHES = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (3, 1), (1, 4), (1, 6), (2, 3), (1, 8))
BLOCKS = (1, 1, 1, 1)  # of the four stages: fewer than the backbones have, to compile in less time
STEPS = 5
FIRST_MOMENT = 0.1  # of Adam after one step: 1 - 0.9 of the gradient


def pictures(random, config):
    """Draws uint8 [batch_size, size, size, 3] of 0 and 255: normalizing them to 0 and 1 rounds nothing.

    The step normalizes in float32, and compilers may do that in several ways.
    """
    size = config.image_size
    return 255 * random.integers(0, 2, (config.batch_size, size, size, 3), dtype=np.uint8)


def trajectory(config, dtype='float64'):
    """Returns what a few steps on random images do, on the config's mesh: (losses, gradient, state).

    losses: float [STEPS]. gradient: of the first step, as `params`, on the host. state: after the last.
    """
    import jax
    from optax import tree_utils

    from sreml_jax.run import Run
    from sreml_jax.runtime import sharding as meshes
    from sreml_jax.training import meta_classes, optimizer, step

    with jax.enable_x64(dtype == 'float64'):
        run = Run.of(config)
        adam = optimizer.adam(optimizer.schedule(run.config, STEPS))
        state = step.initial_state(run.model, adam, run.mesh, config.seed)
        state = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == np.float32 else x, state)
        model = run.model.clone(dtype=np.dtype(dtype))
        mean, std = np.zeros(3, np.float32), np.ones(3, np.float32)
        train_step = step.make_train_step(model, adam, run.mesh, mean, std)
        members, rows = config.ensemble_size, config.batch_size
        drawn = meta_classes.draw(2 * config.meta_class_size, members, config.meta_class_size, config.seed)
        table = meshes.put_whole(run.mesh, meshes.META_TABLE, drawn)
        put = functools.partial(meshes.put, run.mesh, meshes.IMAGES, rows=rows)
        random = np.random.default_rng(config.seed)
        losses, gradient = [], None
        for _ in range(STEPS):
            images = pictures(random, config)
            labels = random.integers(0, drawn.shape[1], rows, dtype=np.int32)
            state, metrics = train_step(state, put(images), put(labels), table)
            losses.append(float(metrics['loss']))
            if gradient is None:
                moments = jax.device_get(tree_utils.tree_get(state.opt_state, 'mu'))
                gradient = jax.tree.map(lambda x: x / FIRST_MOMENT, moments)
        return np.array(losses), gradient, state


def differences(found, expected) -> tuple[float, float, float]:
    """Returns the three figures of a row, of two results of `trajectory`."""
    import jax

    (losses, gradient, _), (one_losses, one_gradient, _) = found, expected
    norms, one_norms = (
        np.array([np.linalg.norm(x) for x in jax.tree.leaves(g)]) for g in (gradient, one_gradient)
    )
    trunk, one_trunk = (
        np.concatenate([x.ravel() for x in jax.tree.leaves(g['trunk'])]) for g in (gradient, one_gradient)
    )
    apart = np.linalg.norm(trunk - one_trunk) / np.linalg.norm(one_trunk)
    return abs(losses - one_losses).max(), abs(norms / one_norms - 1).max(), apart


def main() -> None:
    """Prints one row for every backbone and mesh."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--dtype', choices=('float64', 'float32'), default='float64')
    parser.add_argument('--meshes', default=','.join(f'{d}x{m}' for d, m in MESHES), help='1x1 comes first')
    args = parser.parse_args()
    wanted = [tuple(map(int, mesh.split('x'))) for mesh in args.meshes.split(',')]
    devices = max(data * member for data, member in wanted)
    # Compiling takes most of the time, and what LLVM does for speed most of that.
    quick = '--xla_backend_optimization_level=0'
    several = f'--xla_force_host_platform_device_count={devices}'
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {several} {quick}'
    os.environ['JAX_PLATFORMS'] = 'cpu'
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

    from sreml_jax.configs import default
    from sreml_jax.model import resnet

    config = default.get_config()
    config.update(
        ensemble_size=24,
        meta_class_size=4,
        batch_size=24,
        eval_batch_size=24,
        width=4,
        stem='small',
        image_size=10,
        learning_rate=1e-3,
    )
    print(f'24 members of width 4, blocks {BLOCKS}, batch 24, 10 pixels, {args.dtype}, 5 steps of Adam')
    print('backbone   mesh   last loss    losses  gradient norms  trunk gradient')
    for name in ('resnet18', 'resnet50'):
        resnet.BACKBONES[name] = resnet.BACKBONES[name]._replace(blocks=BLOCKS)
        one = None
        for data, member in wanted:
            config.update(model_type=name, mesh=(data, member), gpu_ids=tuple(range(data * member)))
            found = trajectory(config, args.dtype)
            one = one or found
            loss, norms, trunk = differences(found, one)
            figures = f'{found[0][-1]:>12.6f}{loss:>10.1e}{norms:>16.1e}{trunk:>16.1e}'
            print(f'{name:<10}{f"{data}x{member}":>5}{figures}', flush=True)


if __name__ == '__main__':
    main()
