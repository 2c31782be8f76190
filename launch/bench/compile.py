"""Compiles the training step for a GPU that this machine lacks, and counts its kernels, bytes and memory.

python -m venv gpu-venv && gpu-venv/bin/pip install '.[hopper]'   7 GB, in its own environment
gpu-venv/bin/python launch/bench compile --card=h100 --model_type=resnet18

XLA's GPU compiler needs only a description of the card. The result is the program that the card would run,
except for autotuning (the choice of cuDNN's and cuBLAS' kernels and of tiles). A kernel's bytes are those of
its operands and results. At the card's measured copy rate they gave the time of elementwise kernels on an
H100 within a fifth; concatenations and slices took up to twice that (2026-11-27). The three sums of GB count
what an input gradient's kernel moves for relu with relu, the tables below them with its convolution.
"""

import argparse
import collections
import importlib.util
import itertools
import os
import time
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from kernels import Kernel, kernels, parts_of
from measure import keep, positive

from sreml_jax.configs import default
from sreml_jax.model.conv import implicit, member_conv
from sreml_jax.model.cost import forward_flops
from sreml_jax.model.resnet import BACKBONES
from sreml_jax.needs import device_memory
from sreml_jax.run import model_of
from sreml_jax.training import optimizer, step


class Card(NamedTuple):
    """The compiler's description of a card, and rates measured on one, in bytes and operations a second."""

    target: str
    bytes_per_s: float
    flop_per_s: float


CARDS = {
    'h100': Card(
        """gpu_device_info {
          threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
          shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
          core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 cuda_compute_capability { major: 9 }
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
          memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84942979072
        }
        platform_name: "CUDA"
        dnn_version_info { major: 9 minor: 10 patch: 0 }
        device_description_str: "NVIDIA H100 80GB HBM3" """,
        2.86e12,
        781e12,
    )
}


def main() -> None:
    """Compiles the step that the flags describe, and prints its counts."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--card', choices=tuple(CARDS), default='h100')
    p.add_argument('--model_type', choices=tuple(BACKBONES), default='resnet18')
    p.add_argument('--members', type=positive, default=48)
    p.add_argument('--batch', type=positive, default=12)
    p.add_argument('--size', type=positive, default=256, help='height and width of the images in pixels')
    p.add_argument('--dtype', choices=('float32', 'bfloat16'), default='bfloat16')
    p.add_argument('--conv', choices=member_conv.CHOICES, default='auto')
    p.add_argument('--remat', action='store_true')
    p.add_argument('--xla_only', action='store_true', help="without Triton's kernels, which '.[hopper]' has")
    p.add_argument('--top', type=positive, default=16, help='lines of each table')
    p.add_argument('--json', help='keep the figures in this file')
    args = p.parse_args()
    card = CARDS[args.card]
    device = absent_device(card)
    by_kernels = not args.xla_only and importlib.util.find_spec('jax_triton') is not None
    with (
        mock.patch.object(jax, 'default_backend', lambda: 'gpu'),  # the model asks for both
        mock.patch.object(implicit, 'available', lambda: by_kernels),
    ):
        config = config_of(args)
        begin = time.perf_counter()
        compiled = compile_step(config, device)
        seconds = time.perf_counter() - begin
        predicted = device_memory(config)
        flop = 3 * forward_flops(model_of(config, 'gpu'), args.size) * args.batch
    found = list(kernels(compiled.as_text()))
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    parts = {part: size / 1e9 for part, size in parts_of(found).items()}
    total = sum(parts.values())
    figures = {
        "Triton's kernels": by_kernels and args.conv == 'auto' and args.dtype == 'bfloat16',
        'seconds to trace and compile': round(seconds, 1),
        'kernels': len(found),
        'GB': round(total, 1),
        'ms at the measured copy rate': round(1e12 * total / card.bytes_per_s, 1),
        **{f'GB, {part}': round(gigabytes, 1) for part, gigabytes in parts.items()},
        'TFLOP': round(flop / 1e12, 2),
        'ms at the measured matmul rate': round(1e3 * flop / card.flop_per_s, 1),
        'GiB of state and inputs': round(held / 2**30, 2),
        'GiB of temporary memory': round(memory.temp_size_in_bytes / 2**30, 2),
        'GiB predicted by describe': round(predicted / 2**30, 2),
    }
    for name, value in figures.items():
        print(f'{name:<40}{value}')
    for field in ('what', 'where'):
        table(found, field, args.top)
    keep(figures, args)


def absent_device(card: Card) -> jax.Device:
    """Returns the card as a device to compile for.

    Raises:
      SystemExit: XLA's GPU compiler is not installed.
    """
    os.environ.setdefault('XLA_FLAGS', '--xla_gpu_autotune_level=0')
    jax.devices()  # loads the plugins
    try:
        cards = topologies.get_topology_desc('', 'cuda', target_config=card.target, topology='1x1x1')
        return cards.devices[0]
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise SystemExit(
            f"error: XLA's GPU compiler is missing; pip install 'sreml_jax[cuda]' (5 GB) ({error})"
        ) from None


def config_of(args: argparse.Namespace):
    """Returns the config of the step that is compiled."""
    config = default.get_config()
    config.update(
        model_type=args.model_type,
        ensemble_size=args.members,
        batch_size=args.batch,
        image_size=args.size,
        dtype=args.dtype,
        member_conv=args.conv,
        remat=args.remat,
    )
    return config


def compile_step(config, device: jax.Device):
    """Returns the training step, compiled for one absent device."""
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.sharding.Mesh(np.array([[device]]), ('data', 'member'), axis_types=auto)
    model = model_of(config, 'gpu')
    adam = optimizer.adam(optimizer.schedule(config, 100))
    train_step = step.make_train_step(model, adam, mesh, np.full(3, 0.5, 'f'), np.ones(3, 'f'))
    batch, pixels = config.batch_size, config.image_size
    shapes = (
        ((batch, pixels, pixels, 3), jnp.uint8),
        ((batch,), jnp.int32),
        ((config.ensemble_size, 1000), jnp.int32),
    )
    whole = jax.sharding.NamedSharding(mesh, jax.P())
    operands = [jax.ShapeDtypeStruct(shape, dtype, sharding=whole) for shape, dtype in shapes]
    traced = train_step.trace(step.abstract_state(model, adam, mesh), *operands)
    return traced.lower(lowering_platforms=('cuda',)).compile()


def table(found: list[Kernel], field: str, top: int) -> None:
    """Prints bytes and numbers of kernels by one of their fields, largest first."""
    sizes: collections.Counter = collections.Counter()
    for kernel in found:
        sizes[getattr(kernel, field)] += kernel.nbytes
    numbers = collections.Counter(getattr(kernel, field) for kernel in found)
    print(f'\n      GB  kernels  {field}')
    for key, size in itertools.islice(sizes.most_common(), top):
        print(f'{size / 1e9:8.2f} {numbers[key]:8d}  {key}')


if __name__ == '__main__':
    main()
