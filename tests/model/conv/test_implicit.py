"""The Triton kernels, interpreted on a CPU, beside `lax`; and a model whose convolutions they run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from support import interpreter
from support.near import close

from sreml_jax.model import resnet
from sreml_jax.model.conv import choice, implicit, member_conv
from sreml_jax.model.conv.geometry import Geometry
from sreml_jax.model.ensemble import Ensemble

MEMBERS = 2


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    interpreter.install(monkeypatch, np.float32)


def plain(x, w, g):
    """The oracle: one member."""
    return lax.conv_general_dilated(
        x, w, g.strides, g.padding,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=g.groups, precision='highest',
    )  # fmt: skip


def products(conv, x, w):
    """The output of every member, and both gradients of its product with a random array."""
    y, transpose = jax.vjp(jax.vmap(conv), x, w)
    dy = jnp.asarray(np.random.default_rng(1).standard_normal(y.shape), y.dtype)
    return y, *transpose(dy)


def operands(kernel, groups, size, channels, features, dtype=np.float32):
    draw = np.random.default_rng(0).standard_normal
    x, w = draw((MEMBERS, 3, *size, channels)), draw((MEMBERS, kernel, kernel, channels // groups, features))
    return jnp.asarray(x, dtype), jnp.asarray(w, dtype)


@pytest.mark.parametrize(
    ('kernel', 'stride', 'padding', 'groups', 'size', 'channels', 'features'),
    [
        (3, 1, ((1, 1), (1, 1)), 1, (5, 6), 32, 64),
        (3, 1, ((1, 1), (1, 1)), 1, (1, 1), 64, 32),
        (3, 2, ((1, 1), (1, 1)), 1, (8, 8), 64, 32),
        (3, 2, ((1, 1), (1, 1)), 1, (7, 5), 32, 96),
        (3, 2, ((0, 1), (2, 0)), 1, (6, 5), 32, 32),
        (1, 1, ((0, 0), (0, 0)), 1, (7, 9), 32, 192),
        (1, 2, ((0, 0), (0, 0)), 1, (8, 5), 32, 32),
        (3, 1, ((1, 1), (1, 1)), 16, (5, 6), 64, 64),
        (3, 2, ((1, 1), (1, 1)), 2, (5, 6), 64, 128),
    ],
)
def test_the_three_products_are_lax_s(kernel, stride, padding, groups, size, channels, features, monkeypatch):
    x, w = operands(kernel, groups, size, channels, features)
    g = Geometry((stride, stride), padding, groups)
    monkeypatch.setattr(choice, 'prefers_implicit', lambda *_: True)
    found = products(lambda x, w: implicit_only(x, w, g), x, w)
    close(found, products(functools.partial(plain, g=g), x, w), 1e-5)


def implicit_only(x, w, g):
    """As `auto` on a Hopper GPU where it runs every product by the kernels."""
    return member_conv.conv(x, w, g.strides, g.padding, feature_group_count=g.groups)


def test_tiles_that_reach_beyond_the_last_pixel_and_over_many_blocks():
    x, w = operands(3, 1, (5, 6), 64, 64)
    g, tiles = (
        Geometry((1, 1), ((1, 1), (1, 1)), 1),
        implicit.TILES | {'TILE_M': 64, 'TILE_N': 32, 'TILE_K': 32},
    )
    y, sums, squares = implicit.forward_and_sums(x, w, g, tiles)
    expected = jax.vmap(functools.partial(plain, g=g))(x, w)
    close([y, sums, squares], [expected, expected.sum((1, 2, 3)), (expected**2).sum((1, 2, 3))], 1e-5)
    dy = jnp.asarray(np.random.default_rng(1).standard_normal(y.shape), y.dtype)
    dx, dw = jax.vjp(jax.vmap(functools.partial(plain, g=g)), x, w)[1](dy)
    close([implicit.input_gradient(dy, w, x, g, tiles)], [dx], 1e-5)
    close([implicit.kernel_gradient(x, dy, w, g, tiles)], [dw], 1e-5)


@pytest.mark.parametrize('groups', [1, 4])
def test_narrow_products_are_summed_in_float32_and_rounded_once(groups):
    x, w = operands(3, groups, (5, 6), 64, 64, np.float16)
    g = Geometry((1, 1), ((1, 1), (1, 1)), groups)
    y, sums, squares = implicit.forward_and_sums(x, w, g)
    exact = jax.vmap(functools.partial(plain, g=g))(x.astype(np.float32), w.astype(np.float32))
    np.testing.assert_array_less(np.abs(y - exact), np.abs(exact) * 2**-10 + 1e-4)
    # The sums are of what was rounded, as BatchNorm reads it.
    rounded = np.asarray(y, np.float64)
    close([sums], [rounded.sum((1, 2, 3)).astype(np.float32)], 1e-5)
    close([squares], [(rounded**2).sum((1, 2, 3)).astype(np.float32)], 1e-5)


@pytest.mark.parametrize(('shared', 'stride'), [(False, 1), (True, 1), (True, 2)])
def test_moments_come_with_the_output_and_have_no_gradient(shared, stride):
    x, w = operands(3, 1, (5, 6), 32, 64)
    x = x[0] if shared else x
    strides = stride, stride
    conv = functools.partial(member_conv.conv_and_moments, window_strides=strides, padding=[(1, 1)] * 2)
    y, (mean, square) = jax.vmap(conv, (None if shared else 0, 0))(x, w)
    of_all = jnp.broadcast_to(x, (MEMBERS, *x.shape[-4:]))
    g = Geometry(strides, ((1, 1), (1, 1)), 1)
    close([y], [jax.vmap(functools.partial(plain, g=g))(of_all, w)], 1e-5)
    close([mean, square], [y.mean((1, 2, 3)), (y**2).mean((1, 2, 3))], 1e-5)
    gradient = jax.grad(lambda w: jax.vmap(conv, (None if shared else 0, 0))(x, w).moments[1].sum())(w)
    assert not gradient.any()


def test_a_model_computes_the_same_with_and_without_the_kernels(monkeypatch):
    backbone = 'resnext50_32x4d'
    blocks = resnet.BACKBONES[backbone]._replace(blocks=(1, 1, 1, 1))
    monkeypatch.setitem(resnet.BACKBONES, backbone, blocks)
    for name in ('TILE_M', 'TILE_N', 'TILE_K'):
        monkeypatch.setitem(implicit.TILES, name, 512)  # few tiles, for the interpreter
    model = Ensemble(backbone, MEMBERS, 3, width=32, stem='small')
    images = jnp.asarray(np.random.default_rng(0).standard_normal((8, 8, 8, 3)), np.float32)
    variables = jax.jit(model.clone(conv='grouped').init)(jax.random.key(0), images)
    launched = []
    launch = implicit._launch
    monkeypatch.setattr(implicit, '_launch', lambda kernel, *a: launched.append(kernel) or launch(kernel, *a))

    def run():
        @jax.jit
        def loss(params):
            given = {**variables, 'params': params}
            logits, updates = model.apply(given, images, train=True, mutable=['batch_stats'])
            return (jax.nn.log_softmax(logits) * np.arange(3)).sum(), updates

        return jax.value_and_grad(loss, has_aux=True)(variables['params'])

    found = run()
    kernels = set(launched)
    monkeypatch.setattr(implicit, 'available', lambda: False)
    monkeypatch.setattr(implicit, 'serves', lambda dtype: False)
    launched.clear()
    expected = run()
    # The others run in test_relu_conv's model.
    assert kernels == {'output', 'relu_gradient'} and not launched
    close(jax.tree.leaves(found), jax.tree.leaves(expected), 1e-3)


def test_members_and_images_on_several_devices(monkeypatch):
    monkeypatch.setattr(choice, 'prefers_implicit', lambda *_: True)
    x, w = operands(3, 1, (4, 4), 32, 32)
    x = jnp.concatenate([x, x[:, :1]], 1)  # four images
    g = Geometry((1, 1), ((1, 1), (1, 1)), 1)
    mesh = jax.make_mesh((2, 2), ('data', 'member'), (AxisType.Auto,) * 2, devices=jax.devices()[:4])

    def loss(conv, x, w):
        return (jax.vmap(conv)(x, w) ** 2).sum()

    def whole(x, w):
        return lax.psum(loss(functools.partial(implicit_only, g=g), x, w), ('data', 'member'))

    found = jax.jit(
        jax.shard_map(
            jax.value_and_grad(whole, (0, 1)),
            mesh=mesh,
            in_specs=(P('member', 'data'), P('member')),
            out_specs=(P(), (P('member', 'data'), P('member'))),
        )
    )(x, w)
    expected = jax.value_and_grad(functools.partial(loss, functools.partial(plain, g=g)), (0, 1))(x, w)
    close(jax.tree.leaves(found), jax.tree.leaves(expected), 1e-5)
