"""What each device holds and sends when members are spread over devices.

python launch/bench/mesh_bytes.py --devices 1,3,8,16

Compiles the training step for every mesh (1, N) on virtual CPU devices and reads from the compiled programs
what a device holds (its share of the state) and what its collectives move in a step. Nothing is run.
"""

import argparse
import collections
import math
import os
import re
import sys
from pathlib import Path

_COLLECTIVE = re.compile(
    r'= (.+?) (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all|collective-broadcast)'
    r'(?:-start)?\('
)
_ARRAY = re.compile(r'\b(pred|[a-z]+?(\d+))\[([\d,]*)\]')


def collective_bytes(program: str) -> dict[str, int]:
    """Returns kind of collective -> bytes of all its results, of one device's compiled program as text."""
    total: dict[str, int] = collections.Counter()
    for types, kind in _COLLECTIVE.findall(program):
        for _, bits, shape in _ARRAY.findall(types):
            total[kind] += math.prod(map(int, filter(None, shape.split(',')))) * int(bits or 8) // 8
    return dict(total)


def compiled_step(config):
    """Returns (the compiled training step of a config, the shapes of the state that it takes)."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding

    from sreml_jax.run import Run
    from sreml_jax.runtime import sharding as meshes
    from sreml_jax.training import optimizer, step

    run = Run.of(config)
    adam = optimizer.adam(optimizer.schedule(run.config, 1))
    state = step.abstract_state(run.model, adam, run.mesh)

    def array(shape, dtype, spec):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(run.mesh, spec))

    batch, size = config.batch_size, config.image_size
    train_step = step.make_train_step(run.model, adam, run.mesh, np.zeros(3, 'f'), np.ones(3, 'f'))
    lowered = train_step.lower(
        state,
        array((batch, size, size, 3), np.uint8, meshes.IMAGES),
        array((batch,), np.int32, meshes.IMAGES),
        array((config.ensemble_size, 100), np.int32, meshes.META_TABLE),
    )
    return lowered.compile(), state


def main() -> None:
    """Prints one row for every number of devices."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--devices', default='1,3,8,16')
    parser.add_argument('--model_type', default='resnet18')
    parser.add_argument('--members', type=int, default=48)
    parser.add_argument('--batch_size', type=int, default=12)
    parser.add_argument('--image_size', type=int, default=256)
    args = parser.parse_args()
    numbers = [int(n) for n in args.devices.split(',')]
    several = f'--xla_force_host_platform_device_count={max(numbers)}'
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {several}'
    os.environ['JAX_PLATFORMS'] = 'cpu'
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

    from sreml_jax.configs import default

    print(f'{args.model_type} x {args.members}, batch {args.batch_size}, {args.image_size} pixels')
    print(f'{"devices":>7}{"members each":>14}{"state, MiB":>12}{"sent in a step":>40}')
    for number in numbers:
        config = default.get_config()
        config.update(
            model_type=args.model_type,
            ensemble_size=args.members,
            batch_size=args.batch_size,
            image_size=args.image_size,
            gpu_ids=tuple(range(number)),
            member_conv='grouped',  # the smallest program; how a device convolves moves nothing
        )
        compiled, _ = compiled_step(config)
        held = compiled.memory_analysis().alias_size_in_bytes
        moved = collective_bytes(compiled.as_text())
        sent = ', '.join(f'{kind} {size / 2**20:.2f} MiB' for kind, size in moved.items()) or 'nothing'
        print(f'{number:>7}{args.members // number:>14}{held / 2**20:>12,.1f}{sent:>40}', flush=True)


if __name__ == '__main__':
    main()
