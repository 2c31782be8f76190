"""Convolutions that compute relu themselves, by the kernels (interpreted) and without, beside `lax`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from support import interpreter
from support.near import close

from sreml_jax.model import relu_conv
from sreml_jax.model.affine import Relu, computed
from sreml_jax.model.conv import implicit, member_conv
from sreml_jax.model.conv.moments import Convolved
from sreml_jax.model.relu_conv import ReluConvolved
from sreml_jax.model.resnet import BACKBONES, BasicBlock, Layers

MEMBERS = 2


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    interpreter.install(monkeypatch, np.float32)


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels that run."""
    names, launch = [], implicit._launch
    monkeypatch.setattr(
        implicit, '_launch', lambda kernel, *given: names.append(kernel) or launch(kernel, *given)
    )
    return names


def operands(size, channels, features, kernel=3, groups=1, shortcut=True, dtype=np.float32):
    """relu's operands and kernels of all members, and what their products' gradients are taken with."""
    draw = np.random.default_rng(0).standard_normal
    shape = MEMBERS, 3, *size, channels
    relu = Relu(draw(shape), draw((MEMBERS, channels)), draw((MEMBERS, channels)), None)
    relu = relu._replace(shortcut=draw(shape)) if shortcut else relu
    w = draw((MEMBERS, kernel, kernel, channels // groups, features))
    relu, w = jax.tree.map(lambda x: jnp.asarray(x, np.float32), (relu, w))
    return relu._replace(shortcut=relu.shortcut.astype(dtype) if shortcut else None), w.astype(dtype)


def run(conv, relu, w):
    """Output, moments, relu's result for a shortcut, and the gradients of a random sum of all of it."""
    found, transpose = jax.vjp(jax.vmap(conv), relu, w)
    draw = np.random.default_rng(1).standard_normal
    weights = jax.tree.map(lambda x: jnp.asarray(draw(x.shape), x.dtype), found)
    convolved, _ = found
    # BatchNorm takes the moments' derivative by itself.
    weights = weights._replace(convolved=weights.convolved._replace(moments=(0 * convolved.moments[0],) * 2))
    return jax.tree.leaves((found, transpose(weights)))


def ours(g):
    def conv(relu, w):
        return relu_conv.conv(
            relu.x, w, g['stride'], g['padding'], relu=relu, every=g['every'],
            feature_group_count=g['groups'],
        )  # fmt: skip

    return conv


def convolution(y, w, g):
    """The oracle."""
    return lax.conv_general_dilated(
        y, w, g['stride'], g['padding'], dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=g['groups'], precision='highest',
    )  # fmt: skip


def plain(g):
    def conv(relu, w):
        y = relu.x * relu.factor + relu.addend
        y = jnp.maximum(y if relu.shortcut is None else y + relu.shortcut, 0)
        z = convolution(y, w, g)
        moments = z.mean((0, 1, 2)), (z**2).mean((0, 1, 2))
        pixels = None if relu.shortcut is None else y[:, :: g['every'], :: g['every']]
        return ReluConvolved(Convolved(z, moments), pixels)

    return conv


def geometry(stride=1, pad=1, groups=1, every=1):
    padding = (pad, pad), (pad, pad)
    return {'stride': (stride, stride), 'padding': padding, 'groups': groups, 'every': every}


@pytest.mark.parametrize(
    ('kernel', 'stride', 'pad', 'groups', 'size', 'channels', 'features', 'every'),
    [  # every: 0 without a shortcut
        (3, 1, 1, 1, (5, 6), 32, 64, 0),
        (3, 2, 1, 1, (8, 8), 64, 32, 1),
        (3, 2, 1, 1, (7, 5), 32, 32, 0),
        (3, 2, 1, 1, (7, 6), 32, 32, 2),
        (1, 1, 0, 1, (7, 9), 96, 32, 0),
        (1, 1, 0, 1, (7, 9), 96, 32, 1),
        (1, 1, 0, 1, (8, 5), 96, 32, 2),
        (3, 1, 1, 16, (5, 6), 64, 64, 0),
        (3, 2, 1, 2, (4, 5), 128, 64, 0),
        (3, 1, 1, 2, (4, 4), 128, 64, 1),
        (3, 1, 1, 1, (4, 4), 8, 16, 2),  # the kernels do not take so few channels
    ],
)
def test_outputs_and_gradients_are_lax_s(
    kernel, stride, pad, groups, size, channels, features, every, launched
):
    given = operands(size, channels, features, kernel, groups, shortcut=every > 0)
    g = geometry(stride, pad, groups, every)
    close(run(ours(g), *given), run(plain(g), *given), 1e-5)
    assert ('relu_gradient' in launched) is (channels > 8)


def test_what_the_next_shortcut_reads_is_written_by_itself():
    """See `xla.strided`; relu's result has a barrier in any case."""
    given = operands((4, 4), 32, 32)
    programs = [jax.jit(jax.vmap(ours(geometry(every=every)))).lower(*given) for every in (1, 2)]
    assert [program.as_text().count('optimization_barrier') for program in programs] == [1, 2]


def test_one_relu_may_be_convolved_by_all_members():
    relu, w = operands((4, 4), 32, 32)
    relu = jax.tree.map(lambda v: v[0], relu)
    found, expected = (jax.vmap(conv(geometry()), (None, 0))(relu, w) for conv in (ours, plain))
    close(jax.tree.leaves(found), jax.tree.leaves(expected), 1e-5)


def test_a_member_by_itself():
    relu, w = jax.tree.map(lambda v: v[0], operands((5, 4), 32, 32))
    found, expected = (conv(geometry(every=2))(relu, w) for conv in (ours, plain))
    close(jax.tree.leaves(found), jax.tree.leaves(expected), 1e-5)


def test_what_is_not_finite_reaches_the_gradients_of_its_member():
    """So that `skip_nonfinite` notices it."""
    relu, w = operands((4, 4), 32, 32)
    found, transpose = jax.vjp(jax.vmap(ours(geometry())), relu, w)
    weights = jax.tree.map(jnp.ones_like, found)
    output = weights.convolved.output.at[0, 1, 2, 2, 3].set(jnp.nan)
    of_relu, dw = transpose(weights._replace(convolved=weights.convolved._replace(output=output)))
    for member, finite in ((0, False), (1, True)):
        leaves = [*of_relu, dw]
        assert all(bool(jnp.isfinite(leaf[member]).all()) is finite for leaf in leaves)


def gradient(relu, w, g, dtype=np.float32, tiles=implicit.TILES):
    """The kernel's gradient of relu's argument with its sums; x; relu's gradients, masked."""
    x, y = relu.x.astype(dtype), jax.vmap(lambda relu: relu.result(dtype))(relu)
    result, transpose = jax.vjp(
        jax.vmap(lambda y, w: convolution(y, w, g)), *(v.astype(np.float32) for v in (y, w))
    )
    dz, drawn = (np.random.default_rng(1).standard_normal(v.shape).astype(dtype) for v in (result, y))
    given = np.s_[:, :, :: g['every'], :: g['every']]
    shortcut = None if relu.shortcut is None else implicit.Shortcut(y, jnp.asarray(drawn[given]), g['every'])
    other = np.zeros_like(drawn)
    other[given] = drawn[given]
    dz, of_conv = jnp.asarray(dz), member_conv.geometry_of(g['stride'], g['padding'])
    found = implicit.relu_gradient(dz, w, x, relu.factor, relu.addend, shortcut, of_conv, tiles)
    return found, x, np.where(y > 0, transpose(dz.astype(np.float32))[0], 0), np.where(y > 0, other, 0)


@pytest.mark.parametrize(
    ('size', 'stride', 'every'),
    [((5, 6), 1, 1), ((5, 6), 1, 2), ((8, 8), 1, 0), ((8, 8), 1, 2), ((15, 15), 2, 1)],
)
def test_a_gradient_over_many_tiles(size, stride, every):
    """Tiles of 64 pixels: over 90; over 192, without a mask; of each remainder over 192, some beyond."""
    given = operands(size, 64, 64, shortcut=every > 0)
    tiles = implicit.TILES | {'TILE_M': 64, 'TILE_N': 32, 'TILE_K': 32}
    (d, *sums), x, expected, other = gradient(*given, geometry(stride, every=every or 1), tiles=tiles)
    expected = expected + other if every else expected
    close([d, *sums], [expected, expected.sum((1, 2, 3)), (expected * x).sum((1, 2, 3))], 1e-5)


def test_a_narrow_gradient_is_rounded_twice_at_most_and_its_sums_are_of_what_was_rounded():
    given = operands((4, 4), 32, 32, dtype=np.float16)
    (d, *sums), x, exact, other = gradient(*given, geometry(), np.float16)
    between = np.abs(exact) + np.abs(exact + other) + 1e-4
    np.testing.assert_array_less(np.abs(d - (exact + other)), between * 2**-11)
    # The sums are of what was rounded, as BatchNorm's derivative reads it.
    d, x = np.asarray(d, np.float64), np.asarray(x, np.float64)
    close(sums, [v.sum((1, 2, 3)).astype(np.float32) for v in (d, d * x)], 1e-5)


@pytest.mark.parametrize(('groups', 'shortcut'), [(1, False), (1, True), (2, False)])
def test_what_is_kept_for_the_backward_pass(groups, shortcut):
    """x and relu's result, which the gradient of the kernels needs; of groups x alone."""
    relu, w = operands((5, 6), 128, 64, groups=groups, shortcut=shortcut)
    conv = ours(geometry(groups=groups))
    backward = jax.jit(lambda relu, w: jax.vjp(jax.vmap(conv), relu, w)[1])(relu, w)
    kept = [np.asarray(leaf) for leaf in jax.tree.leaves(backward) if leaf.size == relu.x.size]
    result = jax.vmap(lambda relu: relu.result(np.float32))(relu)
    expected = [relu.x] if groups > 1 else [relu.x, result]
    assert len(kept) == len(expected)
    assert all(any(np.allclose(x, e, atol=1e-5) for x in kept) for e in expected)


class Blocks(nn.Module):
    """A member: two blocks, the second of which computes the last relu of the first."""

    layers: Layers

    @nn.compact
    def __call__(self, x):
        block = nn.remat(BasicBlock) if self.layers.remat else BasicBlock
        for i in range(2):
            x = block(32, 1, BACKBONES['resnet18'], self.layers, name=str(i))(x)
        return computed(x, np.float32)


def blocks(layers):
    """The vmapped members: (variables, images) -> loss, statistics."""
    axes = {'params': 0, 'batch_stats': 0}
    members = nn.vmap(Blocks, variable_axes=axes, split_rngs={'params': True}, axis_size=MEMBERS)(layers)

    def loss(params, stats, x):
        y, updates = members.apply({'params': params, 'batch_stats': stats}, x, mutable=['batch_stats'])
        return (y**3).sum(), updates['batch_stats']

    return members, loss


@pytest.mark.parametrize('remat', [False, True])
def test_blocks_of_members_with_images_on_several_devices(remat, launched):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((MEMBERS, 4, 4, 4, 32)), np.float32)
    members, loss = blocks(Layers(True))
    variables = members.init(jax.random.key(0), x)
    given = variables['params'], variables['batch_stats']
    expected = jax.value_and_grad(loss, has_aux=True)(*given, x)

    mesh = jax.make_mesh((2, 1), ('data', 'member'), (AxisType.Auto,) * 2, devices=jax.devices()[:2])
    _, loss = blocks(Layers(True, 'data', None, member_conv.conv_and_moments, relu_conv.conv, remat))

    def whole(params, stats, x):
        total, stats = loss(params, stats, x)
        return lax.psum(total, 'data'), stats

    step = jax.value_and_grad(whole, has_aux=True)
    images = P(None, 'data')
    found = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(P(), P(), images), out_specs=P()))(*given, x)
    close(jax.tree.leaves(found), jax.tree.leaves(expected), 1e-4)
    # Of four convolutions the first reads no relu; with remat, relu ends the first block itself.
    assert launched.count('relu_gradient') == (2 if remat else 3)
    assert launched.count('input_gradient') == (2 if remat else 1)
    assert launched.count('kernel_gradient') == launched.count('output') / (2 if remat else 1) == 4
