"""The training step: compile time, step time, arithmetic and memory; beside PyTorch with --peer.

python launch/bench step --peer=loop,graph,vmap               48 members of resnet18, 256x256
python launch/bench step --peer=loop --members=4 --size=128   small enough for a CPU
python launch/bench step --data_dir=DIR ...                   with the real pipeline beside it

Every figure is a median over steps that alternate, PyTorch's in a process of its own. A GPU runs five
steps in a row, ours and PyTorch's, before it is waited for, as training does not wait for each.
"""

import argparse
import itertools
import os
import time
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import peers
from kernels import kernels
from measure import PeakMemory, alternate, keep, keep_so_far, positive
from ml_collections import ConfigDict

from sreml_jax.configs import default
from sreml_jax.model.conv import implicit, member_conv
from sreml_jax.model.cost import forward_flops
from sreml_jax.model.resnet import BACKBONES
from sreml_jax.needs import device_memory
from sreml_jax.run import Run
from sreml_jax.runtime import sharding as meshes
from sreml_jax.training import optimizer, step

CLASSES = 1000  # of the random labels; more than any --data_dir here has


def main() -> None:
    """Times what the flags ask for."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model_type', choices=tuple(BACKBONES), default='resnet18')
    p.add_argument('--members', type=int, default=48)
    p.add_argument('--meta_classes', type=int, default=12)
    p.add_argument('--width', type=int, default=64)
    p.add_argument('--batch', type=int, default=12)
    p.add_argument('--size', type=int, default=256, help='height and width of the images in pixels')
    p.add_argument('--dtype', choices=('auto', 'float32', 'bfloat16'), default='auto')
    p.add_argument('--conv', choices=member_conv.CHOICES, default='auto')
    p.add_argument('--remat', action='store_true')
    p.add_argument('--xla_only', action='store_true', help="without Triton's kernels, where there are any")
    p.add_argument('--repeats', type=positive, default=5)
    p.add_argument(
        '--peer', nargs='?', const=('loop',), default=(), type=peers.names,
        help=f'PyTorch in turn with ours: some of {",".join(peers.NAMES)} [loop]',
    )  # fmt: skip
    p.add_argument('--data_dir', help='a folder of images: run the step on its batches in turn')
    p.add_argument('--json', help='keep the figures in this file')
    args = p.parse_args()
    if args.peer:
        os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # PyTorch shares the card
    if args.xla_only:
        implicit.available = lambda: False
    config = config_of(args)
    run = Run.of(config)
    with PeakMemory() as memory:
        once = Step(run)
        once()
    figures, runs = once.figures, {'ours': once}
    if args.data_dir:
        runs['with the pipeline'] = with_pipeline(run, once)
    flops = 3 * forward_flops(run.model, args.size) * args.batch
    product = matmul_rate(run.model.dtype)
    figures |= {
        'device': jax.devices()[0].device_kind,
        'dtype': str(run.model.dtype),
        "Triton's kernels": run.model.conv == 'auto' and implicit.serves(run.model.dtype),
        'TFLOP a step, by the model': round(flops / 1e12, 3),
        'matmul TFLOP/s': round(product / 1e12, 3),
        'GiB predicted by describe': round(device_memory(config) / 2**30, 2),
    }

    def time_all() -> None:
        seconds = {name: s / in_a_row() for name, s in alternate(runs, args.repeats).items()}
        figures.update(of_ours(seconds, flops, product, args.batch) | memory.figures())
        theirs = {name: seconds[name] for name in args.peer if name in seconds}
        figures.update(peers.figures(theirs, seconds['ours'], args.batch))

    if args.peer:
        time_all()
        keep_so_far(figures, args)
        runs |= {name: peers.start(name, args, run, in_a_row()) for name in args.peer}
    time_all()
    for name, value in figures.items():
        print(f'{name:<32}{value}', flush=True)
    keep(figures, args)


def of_ours(seconds: dict[str, float], flops: float, product: float, batch: int) -> dict[str, float]:
    """Returns the figures of our step: `seconds` by run, operations a step and a second of a product."""
    ours = seconds['ours']
    figures = {
        'step seconds': round(ours, 4),
        'images/s': round(batch / ours, 1),
        'TFLOP/s': round(flops / ours / 1e12, 3),
        'of the matmul rate': round(flops / ours / product, 3),
    }
    if 'with the pipeline' in seconds:
        figures['longer with the pipeline'] = round(seconds['with the pipeline'] / ours - 1, 3)
    return figures


def config_of(args: argparse.Namespace) -> ConfigDict:
    """Returns the config of the run that is timed."""
    config = default.get_config()
    config.update(
        model_type=args.model_type,
        ensemble_size=args.members,
        meta_class_size=args.meta_classes,
        width=args.width,
        batch_size=args.batch,
        image_size=args.size,
        dtype=args.dtype,
        member_conv=args.conv,
        remat=args.remat,
    )
    if args.data_dir:
        config.update(data_name='folder', data_dir=args.data_dir)
    return config


def in_a_row() -> int:
    """Returns how many steps run before they are waited for. The first call starts the device."""
    return 5 if jax.default_backend() == 'gpu' else 1


class Step:
    """The compiled training step with its state, and random images that lie on the device.

    Attributes:
      figures: measured while compiling.
    """

    def __init__(self, run: Run):
        config, random = run.config, np.random.default_rng(0)
        adam = optimizer.adam(optimizer.schedule(run.config, 1))
        self._state = step.initial_state(run.model, adam, run.mesh, 0)
        shape = (config.batch_size, config.image_size, config.image_size, 3)
        images = random.integers(0, 255, shape, np.uint8)
        labels = random.integers(0, CLASSES, shape[0], np.int32)
        self._batch = [meshes.put(run.mesh, meshes.IMAGES, x, shape[0]) for x in (images, labels)]
        table = random.integers(0, config.meta_class_size, (config.ensemble_size, CLASSES), np.int32)
        self._table = meshes.put_whole(run.mesh, meshes.META_TABLE, table)
        train_step = step.make_train_step(run.model, adam, run.mesh, np.full(3, 0.5, 'f'), np.ones(3, 'f'))
        begin = time.perf_counter()
        lowered = train_step.lower(self._state, *self._batch, self._table)
        traced = time.perf_counter()
        self._compiled = lowered.compile()
        self.figures = {
            'trace seconds': round(traced - begin, 1),
            'compile seconds': round(time.perf_counter() - traced, 1),
        }
        if jax.default_backend() == 'gpu':
            self.figures['kernels'] = len(list(kernels(self._compiled.as_text())))
        if cost := self._compiled.cost_analysis():
            self.figures['TFLOP a step, by XLA'] = round(cost.get('flops', 0) / 1e12, 3)
        if sizes := self._compiled.memory_analysis():
            held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
            self.figures['GiB of the compiled step'] = round((held + sizes.temp_size_in_bytes) / 2**30, 2)

    def __call__(self, batches: Iterable[list[jax.Array]] | None = None) -> None:
        """Runs `in_a_row` steps to their end, on batches (images, labels) or on a random one."""
        for batch in itertools.islice(batches or itertools.repeat(self._batch), in_a_row()):
            self._state, metrics = self._compiled(self._state, *batch, self._table)
        jax.block_until_ready((self._state, metrics))


def with_pipeline(run: Run, once: Step) -> Callable[[], None]:
    """Returns the steps on the next batches of the run's own pipeline."""
    from sreml_jax import data
    from sreml_jax.train import on_device

    dataset = data.load(run.config)
    batches = on_device(dataset.train_batches(run.config.batch_size, 1000, 0), run)
    for _ in range(dataset.steps_per_epoch(run.config.batch_size)):
        next(batches)  # an epoch, after which images that fit are kept in memory
    return lambda: once(batches)


def matmul_rate(dtype: jnp.dtype) -> float:
    """Returns the rate of a large square matrix product, in operations a second."""
    n = 2048 if jax.default_backend() == 'cpu' else 8192
    x = jnp.ones((n, n), dtype)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision='highest'))
    seconds = alternate({'product': lambda: product(x, x).block_until_ready()}, 5)['product']
    return 2 * n**3 / seconds
