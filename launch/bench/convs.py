"""Every algorithm to run convolutions, on every distinct shape that trunk and members of the backbones have.

python launch/bench convs                                               all four, 48 members, 256x256
python launch/bench convs --backbones=resnet18 --members=4 --size=128   what a CPU can bear

`sreml_jax/model/conv/choice.py` is written from such figures; a GPU's were measured with members first in
memory. Forward and both gradients are timed apart, since 'auto' chooses for each. Where `implicit` runs,
the one kernel of `relu_conv` (the gradient of relu's result, masked and summed) is timed too, beside 'auto'
and XLA's passes.
"""

import argparse
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from measure import alternate, keep, positive

from sreml_jax.model.conv import implicit, member_conv
from sreml_jax.model.conv.algorithms import ALGORITHMS, KNOWN, Geometry
from sreml_jax.model.ensemble import Ensemble
from sreml_jax.model.resnet import BACKBONES

PRODUCTS = ('forward', 'input_gradient', 'kernel_gradient')


def main() -> None:
    """Times what the flags ask for."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--backbones', default=','.join(BACKBONES), help='of which to take the shapes')
    p.add_argument('--algorithms', default=','.join(ALGORITHMS))
    p.add_argument('--members', type=int, default=48)
    p.add_argument('--batch', type=int, default=12)
    p.add_argument('--size', type=int, default=256, help='height and width of the images in pixels')
    p.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
    p.add_argument('--repeats', type=positive, default=5)
    p.add_argument('--json', help='keep the figures in this file')
    args = p.parse_args()
    device = jax.devices()[0]
    figures = {'device': device.device_kind, 'platform': device.platform, 'convolutions': []}
    for (x, w, geometry), count in shapes(args).items():
        figures['convolutions'].append(found := measure(x, w, geometry, args) | {'layers': count})
        print(f'{found["name"]}, {count} layers', flush=True)
        for product in PRODUCTS:
            rates = ', '.join(
                f'{algorithm} {rate:,.0f}' for algorithm, rate in found[product]['gflop_per_s'].items()
            )
            best, auto = found[product]['winner'], found[product]['auto']
            print(f'  {product:15} GFLOP/s: {rates}; {best}' + ('' if auto == best else f' (auto: {auto})'))
        for name in ('relu', 'relu after shortcut'):
            if name in found:
                ms = ', '.join(f'{way} {1e3 * s:.3f}' for way, s in found[name]['seconds'].items())
                print(f'  gradient of {name}, ms: {ms}')
    keep(figures, args)


def shapes(args: argparse.Namespace) -> dict[tuple, int]:
    """Returns (x shape, w shape, geometry) of the convolutions, and how many layers have it."""
    found: dict[tuple, int] = {}

    def record(x: jax.Array, w: jax.Array, geometry: Geometry, algorithm: str) -> jax.Array:
        key = (x.shape, w.shape, geometry)
        found[key] = found.get(key, 0) + 1
        return convolve(x, w, geometry, algorithm)

    convolve = member_conv.convolve_members
    images = jax.ShapeDtypeStruct((args.batch, args.size, args.size, 3), jnp.float32)
    with mock.patch.object(member_conv, 'convolve_members', record):
        for backbone in args.backbones.split(','):
            jax.eval_shape(Ensemble(backbone, args.members, 12).init, jax.random.key(0), images)
    return found


def measure(x_shape: tuple, w_shape: tuple, geometry: Geometry, args: argparse.Namespace) -> dict:
    """Times one convolution of all members; seconds are medians of alternating runs."""
    rng, dtype = np.random.default_rng(0), jnp.dtype(args.dtype)
    size = geometry.output_size(x_shape[-3:-1], w_shape[1:3])
    y_shape = (w_shape[0], args.batch, *size, w_shape[-1])
    x, w, dy = (jnp.asarray(rng.standard_normal(s, np.float32), dtype) for s in (x_shape, w_shape, y_shape))
    gflop = 2e-9 * np.prod(y_shape) * np.prod(w_shape[1:4])
    algorithms = [a for a in args.algorithms.split(',') if a != 'winograd' or w_shape[1] == 3]
    kernel = 'x'.join(map(str, w_shape[1:3]))
    found = {
        'name': f'{kernel}/{geometry.strides[0]} {x_shape[-1]} -> {w_shape[-1]}, {geometry.groups} groups, '
        f'output {size[0]}x{size[1]}' + (', shared images' if len(x_shape) == 4 else ''),
        'x': x_shape, 'w': w_shape, 'strides': geometry.strides, 'groups': geometry.groups, 'gflop': gflop,
    }  # fmt: skip
    for product in PRODUCTS:
        names = [*algorithms, *['implicit'] * implicit.can_run(product, x, w, geometry)]
        seconds = alternate({name: run(name, product, x, w, dy, geometry) for name in names}, args.repeats)
        found[product] = {
            'seconds': seconds,
            'gflop_per_s': {algorithm: gflop / s for algorithm, s in seconds.items()},
            'winner': min(seconds, key=seconds.get),
            'auto': member_conv.automatic(product, x, w, geometry),
        }
    if implicit.can_run('input_gradient', x, w, geometry):
        for name, shortcut in (('relu', False), ('relu after shortcut', True)):
            ways = {way: relu_gradient(way, x, w, dy, geometry, shortcut) for way in ('one kernel', 'apart')}
            found[name] = {'seconds': alternate(ways, args.repeats)}
    return found | {
        'forward_and_backward_seconds': {
            name: sum(found[p]['seconds'][name] for p in PRODUCTS)
            for name in found['input_gradient']['seconds']
        }
    }


def run(
    algorithm: str, product: str, x: jax.Array, w: jax.Array, dy: jax.Array, geometry: Geometry
) -> Callable[[], object]:
    """Returns a function that runs one compiled product and waits for it."""
    names = {'forward': 'xw', 'input_gradient': 'dwx', 'kernel_gradient': 'xdw'}[product]
    arrays = {'x': x, 'w': w, 'd': dy}
    gpu = jax.default_backend() == 'gpu'
    # As the step holds activations there: with members beside channels, see `members_beside_channels`.
    beside = [gpu and name != 'w' and arrays[name].ndim == 5 for name in names]
    operands = [
        arrays[name].transpose(1, 2, 3, 0, 4) if b else arrays[name]
        for name, b in zip(names, beside, strict=True)
    ]

    def convolve(*operands):
        given = [x.transpose(3, 0, 1, 2, 4) if b else x for x, b in zip(operands, beside, strict=True)]
        y = getattr(KNOWN[algorithm], product)(*given, geometry)
        return y.transpose(1, 2, 3, 0, 4) if gpu and product != 'kernel_gradient' and y.ndim == 5 else y

    compiled = jax.jit(convolve)
    return lambda: jax.block_until_ready(compiled(*operands))


def relu_gradient(
    way: str, x: jax.Array, w: jax.Array, dy: jax.Array, geometry: Geometry, shortcut: bool
) -> Callable[[], object]:
    """Returns a function that computes relu's gradient and its sums in this way, and waits for it."""
    channels = jnp.ones((len(w), x.shape[-1]), jnp.float32)
    beside, first = (1, 2, 3, 0, 4), (3, 0, 1, 2, 4)

    def of(x, dy, w, factor, addend):
        x, dy = x.transpose(first), dy.transpose(first)
        result = implicit.Shortcut(x, x, 1) if shortcut else None
        if way == 'one kernel':
            d, *sums = implicit.relu_gradient(dy, w, x, factor, addend, result, geometry)
            return d.transpose(beside), sums
        algorithm = KNOWN[member_conv.automatic('input_gradient', x, w, geometry)]
        d = algorithm.input_gradient(dy, w, x, geometry)
        wide = x.astype(jnp.float32)
        y = x if shortcut else wide * factor[:, None, None, None] + addend[:, None, None, None]
        d = jnp.where(y > 0, d + x if shortcut else d, 0)
        pixels = (1, 2, 3)
        return d.transpose(beside), (d.sum(pixels, jnp.float32), (d * wide).sum(pixels))

    operands = x.transpose(beside), dy.transpose(beside), w, channels, channels
    compiled = jax.jit(of)
    return lambda: jax.block_until_ready(compiled(*operands))
