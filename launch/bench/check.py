"""Whether this device computes what PyTorch and XLA compute: golden cases, and every convolution algorithm.

python launch/bench check                         all four backbones, float32 and bfloat16
python launch/bench check --backbones=resnet18

Golden cases: logits in evaluation and the first training loss, beside PyTorch's in float64. Algorithms: each
product, and forward of images that members share, beside lax's convolution of one member after another, in
float32. relu: convolutions by `implicit` that compute relu themselves, and their gradients, beside XLA's in
float32. Figures are largest differences, relative to the largest value (of a loss: to the loss). Bounds: 1e-3
in float32, 2% in bfloat16; golden cases in bfloat16 have none, since their batches of four images alone round
by up to 7%.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from measure import keep, keep_so_far

from sreml_jax.model import affine, relu_conv
from sreml_jax.model.conv import implicit
from sreml_jax.model.conv.algorithms import ALGORITHMS, KNOWN, Algorithm
from sreml_jax.model.conv.geometry import Geometry
from sreml_jax.model.resnet import BACKBONES
from sreml_jax.runtime.xla import BY_LIBRARY
from sreml_jax.training.loss import cross_entropy

sys.path.append(str(Path(__file__).resolve().parents[2] / 'tests'))
DTYPES = ('float32', 'bfloat16')
BOUNDS = {'float32': 1e-3, 'bfloat16': 2e-2}
MEMBERS, BATCH, SIZE, CHANNELS = 3, 2, 8, 32
GEOMETRIES = ((1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 4), (3, 2, 4))  # kernel, stride, groups
# Likewise, and the next shortcut's stride; 0: relu has no shortcut.
OF_RELU = ((1, 1, 1, 1), (1, 1, 1, 2), (3, 1, 1, 0), (3, 2, 1, 2), (3, 1, 4, 0))


def main() -> None:
    """Checks what the flags ask for; exit code 1 if something is out of bounds."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--backbones', default=','.join(BACKBONES), help='of the golden cases')
    p.add_argument('--algorithms', default=','.join(ALGORITHMS))
    p.add_argument('--json', help='keep the figures in this file')
    args = p.parse_args()
    device = jax.devices()[0]
    figures: dict = {'device': device.device_kind, 'platform': device.platform}
    for dtype in DTYPES:
        for backbone in args.backbones.split(','):
            figures[name := f'golden {backbone} {dtype}'] = found = golden(backbone, dtype)
            print(f'{name}: {found}', flush=True)
            keep_so_far(figures, args)
        for algorithm in (*args.algorithms.split(','), *(['implicit'] if implicit.available() else [])):
            figures[name := f'{algorithm} {dtype}'] = found = products(algorithm, dtype)
            print(f'{name}: {found}', flush=True)
            keep_so_far(figures, args)
        if implicit.serves(dtype):
            figures[name := f'relu {dtype}'] = found = relu_gradients(dtype)
            print(f'{name}: {found}', flush=True)
            keep_so_far(figures, args)
    checked = {
        k: v for k, v in figures.items() if isinstance(v, dict) and not ('golden' in k and 'bfloat' in k)
    }
    wrong = [k for k, v in checked.items() if max(v.values()) > BOUNDS[k.split()[-1]]]
    figures['out of bounds'] = wrong
    keep(figures, args)
    if wrong:
        sys.exit(f'error: out of bounds: {", ".join(wrong)}')


def golden(backbone: str, dtype: str) -> dict[str, float]:
    """Returns the differences of one golden case, as the program chooses algorithms on this device."""
    from support.golden import Case

    case = Case(backbone, np.float32, dtype=dtype)
    logits = jax.jit(case.model.apply)(case.variables, case.images)
    training = jax.jit(lambda v, x: case.model.apply(v, x, train=True, mutable=['batch_stats'])[0])
    loss = cross_entropy(training(case.variables, case.images), case.meta_labels).mean()
    expected = case.expected['losses'][0]
    return {
        'logits': difference(logits, case.expected['eval_logits']),
        'loss': float(abs(loss - expected) / expected),
    }


def products(algorithm: str, dtype: str) -> dict[str, float]:
    """Returns the largest difference of each of an algorithm's products, over all geometries that it runs."""
    largest: dict[str, float] = {}
    for kernel, stride, groups in GEOMETRIES:
        if algorithm == 'winograd' and kernel != 3:
            continue
        g = Geometry((stride, stride), ((kernel // 2, kernel // 2),) * 2, groups, lax.Precision.HIGHEST)
        random = np.random.default_rng(0)
        side = g.output_size((SIZE, SIZE), (kernel, kernel))
        kernel_shape = (MEMBERS, kernel, kernel, CHANNELS // groups, CHANNELS)
        shapes = [(MEMBERS, BATCH, SIZE, SIZE, CHANNELS), kernel_shape, (MEMBERS, BATCH, *side, CHANNELS)]
        x, w, dy = (jnp.asarray(random.standard_normal(shape), dtype) for shape in shapes)
        found = all_products(KNOWN[algorithm], g, BY_LIBRARY if dtype == 'float32' else None)(x, w, dy)
        for (product, expected), ours in zip(lax_products(x, w, dy, g).items(), found, strict=True):
            largest[product] = max(largest.get(product, 0), difference(ours, expected))
        if groups == 1:  # shared images
            options = BY_LIBRARY if dtype == 'float32' else None
            forward = jax.jit(lambda x, w, g=g: KNOWN[algorithm].forward(x, w, g), compiler_options=options)
            ours = forward(x[0], w)
            expected = lax_products(jnp.broadcast_to(x[0], x.shape), w, dy, g)['forward']
            largest['shared forward'] = max(largest.get('shared forward', 0), difference(ours, expected))
    return largest


def relu_gradients(dtype: str) -> dict[str, float]:
    """Returns the largest difference of outputs and of each gradient of `relu_conv`, over its geometries."""
    largest: dict[str, float] = {}
    for kernel, stride, groups, every in OF_RELU:
        rng = np.random.default_rng(0)
        shape = MEMBERS, BATCH, SIZE, SIZE, 2 * CHANNELS
        # relu's argument is exact in either dtype and an eighth at least from zero: no mask differs.
        x, more = rng.integers(-8, 9, (2, *shape)) / 4
        of_channels = MEMBERS, shape[-1]
        factor = rng.choice((-2.0, -1.0, 1.0, 2.0), of_channels)
        addend = rng.integers(-8, 8, of_channels) / 4 + 0.125
        w = rng.standard_normal((MEMBERS, kernel, kernel, shape[-1] // groups, shape[-1]))
        relu = affine.Relu(x, factor, addend, more if every else None)
        relu, w = jax.tree.map(lambda v: jnp.asarray(v, dtype).astype(jnp.float32), (relu, w))
        g = Geometry((stride, stride), ((kernel // 2, kernel // 2),) * 2, groups, lax.Precision.HIGHEST)
        narrow = relu._replace(shortcut=relu.shortcut.astype(dtype) if every else None)
        found = relu_and_gradients(g, every)(narrow, w.astype(dtype))
        with mock.patch.object(implicit, 'can_run', lambda *_: False):
            expected = relu_and_gradients(g, every, BY_LIBRARY)(relu, w)
        for name, value in found.items():
            pairs = zip(jax.tree.leaves(value), jax.tree.leaves(expected[name]), strict=True)
            differences = [difference(ours, np.asarray(theirs)) for ours, theirs in pairs]
            largest[name] = max(largest.get(name, 0), *differences)
    return largest


def relu_and_gradients(g: Geometry, every: int, options: dict | None = None) -> Callable[..., dict]:
    """Returns (relu, w) -> what `relu_conv` gives of all members, and the gradients of a random sum of it."""

    def convolve(relu, w):
        return relu_conv.conv(
            relu.x, w, g.strides, g.padding, relu=relu, every=every or 1,
            feature_group_count=g.groups, precision=g.precision,
        )  # fmt: skip

    def both(relu, w):
        found, transpose = jax.vjp(jax.vmap(convolve), relu, w)
        keys = jax.random.split(jax.random.key(0), len(leaves := jax.tree.leaves(found)))
        drawn = [
            jax.random.normal(k, v.shape, jnp.bfloat16).astype(v.dtype)
            for k, v in zip(keys, leaves, strict=True)
        ]
        of_relu, of_w = transpose(jax.tree.unflatten(jax.tree.structure(found), drawn))
        return {'output': found, 'gradient of relu': of_relu, 'gradient of kernels': of_w}

    return jax.jit(both, compiler_options=options)


def all_products(
    algorithm: Algorithm, g: Geometry, options: dict | None = None
) -> Callable[..., tuple[jax.Array, ...]]:
    """Returns (x, w, dy) -> forward, input gradient and kernel gradient, compiled as one program."""
    return jax.jit(
        lambda x, w, dy: (
            algorithm.forward(x, w, g),
            algorithm.input_gradient(dy, w, x, g),
            algorithm.kernel_gradient(x, dy, w, g),
        ),
        compiler_options=options,
    )


def lax_products(x: jax.Array, w: jax.Array, dy: jax.Array, g: Geometry) -> dict[str, np.ndarray]:
    """Returns the three products in float32, member after member."""

    def one(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, w, g.strides, g.padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            feature_group_count=g.groups, precision=lax.Precision.HIGHEST,
        )  # fmt: skip

    found = []
    for x_m, w_m, dy_m in zip(*(a.astype(jnp.float32) for a in (x, w, dy)), strict=True):
        y, gradients = jax.vjp(one, x_m, w_m)
        found.append([np.asarray(value) for value in (y, *gradients(dy_m))])
    names = ('forward', 'input_gradient', 'kernel_gradient')
    return {name: np.stack(values) for name, values in zip(names, zip(*found, strict=True), strict=True)}


def difference(found: jax.Array, expected: np.ndarray) -> float:
    """Returns the largest difference, relative to the largest expected value."""
    return float(np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max())
