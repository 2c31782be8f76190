"""Member convolutions: every algorithm against `lax.conv_general_dilated` under vmap, and under shard_map."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from support.near import close

from sreml_jax.model.conv import member_conv
from sreml_jax.model.conv.algorithms import ALGORITHMS

MEMBERS = 3


def plain(x, w, stride, padding, groups):
    """The oracle: one member."""
    return lax.conv_general_dilated(
        x, w, (stride, stride), padding,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=groups, precision='highest',
    )  # fmt: skip


def products(conv, x, w, shared, seed=1):
    """The output under vmap, and the gradients of its product with a random array."""
    batched = jax.vmap(conv, (None if shared else 0, 0))
    shape = jax.eval_shape(batched, x, w)
    dy = jnp.asarray(np.random.RandomState(seed).standard_normal(shape.shape), shape.dtype)

    @functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})  # quick to compile
    def run(x, w, dy):
        y, transpose = jax.vjp(batched, x, w)
        return y, *transpose(dy)

    return run(x, w, dy)


def operands(kernel, groups, shared, size, dtype=np.float32, channels=(8, 12)):
    draw = np.random.RandomState(0).standard_normal
    x = draw((*(() if shared else (MEMBERS,)), 2, *size, channels[0]))
    w = draw((MEMBERS, kernel, kernel, channels[0] // groups, channels[1]))
    return jnp.asarray(x, dtype), jnp.asarray(w, dtype)


CASES = [
    pytest.param(
        kernel, stride, groups, shared, size, id=f'{kernel}x{kernel}/{stride}-{groups}-{shared}-{size}'
    )
    for kernel, stride, groups in itertools.product((1, 3), (1, 2), (1, 4))
    for shared, size in ((False, (5, 6)), (True, (2, 2)))
] + [
    pytest.param(3, 1, 1, False, (1, 1), id='one-pixel'),
    pytest.param(3, 2, 1, True, (8, 7), id='large-shared'),
]


@pytest.mark.parametrize('algorithm', ALGORITHMS)
@pytest.mark.parametrize(('kernel', 'stride', 'groups', 'shared', 'size'), CASES)
def test_equals_the_plain_convolution_and_its_gradients(algorithm, kernel, stride, groups, shared, size):
    x, w = operands(kernel, groups, shared, size)
    padding = [(kernel // 2,) * 2] * 2
    conv = functools.partial(
        member_conv.conv,
        window_strides=(stride,) * 2,
        padding=padding,
        feature_group_count=groups,
        algorithm=algorithm,
    )
    close(products(conv, x, w, shared), expected(kernel, stride, groups, shared, size), 1e-5)


@pytest.mark.parametrize('algorithm', ALGORITHMS)
@pytest.mark.parametrize(('stride', 'shared'), [(1, False), (2, False), (2, True)])
def test_groups_of_channels_in_several_blocks(algorithm, stride, shared):
    x, w = operands(3, 32, shared, (5, 6), channels=(64, 128))
    options = {'padding': [(1, 1)] * 2, 'feature_group_count': 32}
    conv = functools.partial(member_conv.conv, window_strides=(stride,) * 2, algorithm=algorithm, **options)
    oracle = functools.partial(plain, stride=stride, padding=options['padding'], groups=32)
    close(products(conv, x, w, shared), products(oracle, x, w, shared), 1e-5)


@functools.cache
def expected(kernel, stride, groups, shared, size):
    x, w = operands(kernel, groups, shared, size)
    padding = [(kernel // 2,) * 2] * 2
    oracle = functools.partial(plain, stride=stride, padding=padding, groups=groups)
    return products(oracle, x, w, shared)


@pytest.mark.parametrize('algorithm', ALGORITHMS)
@pytest.mark.parametrize(
    ('kernel', 'stride', 'groups', 'shared', 'size'),
    [
        (1, 1, 1, False, (6, 6)),
        (1, 2, 1, True, (5, 6)),
        (3, 1, 1, False, (6, 6)),
        (3, 2, 1, True, (6, 5)),
        (3, 1, 4, False, (6, 6)),
        (3, 2, 4, False, (5, 5)),
    ],
)
def test_bfloat16(algorithm, kernel, stride, groups, shared, size):
    x, w = operands(kernel, groups, shared, size, jnp.bfloat16)
    padding = [(kernel // 2,) * 2] * 2
    conv = functools.partial(
        member_conv.conv,
        window_strides=(stride,) * 2,
        padding=padding,
        feature_group_count=groups,
        algorithm=algorithm,
    )
    exact = products(
        functools.partial(plain, stride=stride, padding=padding, groups=groups),
        x.astype(jnp.float32), w.astype(jnp.float32), shared,
    )  # fmt: skip
    # The random gradient is rounded to bfloat16 on one side only, which the tolerance covers.
    close(products(conv, x, w, shared), [e.astype(jnp.bfloat16) for e in exact], 1e-2)


@pytest.mark.parametrize('algorithm', ALGORITHMS)
def test_uneven_padding(algorithm):
    x, w = operands(3, 1, False, (6, 5))
    padding = [(0, 1), (2, 0)]
    for stride in (1, 2):
        conv = functools.partial(
            member_conv.conv, window_strides=(stride,) * 2, padding=padding, algorithm=algorithm
        )
        oracle = functools.partial(plain, stride=stride, padding=padding, groups=1)
        close(products(conv, x, w, False), products(oracle, x, w, False), 1e-5)


@pytest.mark.parametrize('algorithm', ALGORITHMS)
def test_double_precision(algorithm):
    with jax.enable_x64(True):
        x, w = operands(3, 1, False, (5, 5), np.float64)
        conv = functools.partial(
            member_conv.conv, window_strides=(2, 2), padding=[(1, 1)] * 2, algorithm=algorithm
        )
        oracle = functools.partial(plain, stride=2, padding=[(1, 1)] * 2, groups=1)
        close(products(conv, x, w, False), products(oracle, x, w, False), 1e-13)


@pytest.mark.parametrize(('kernel', 'groups'), [(1, 1), (3, 1), (3, 4), (7, 1)])
def test_of_the_trunk(kernel, groups):
    x, w = operands(kernel, groups, True, (11, 12))
    given = {'padding': [(kernel // 2,) * 2] * 2}
    conv = functools.partial(
        member_conv.trunk_conv, window_strides=(2, 2), feature_group_count=groups, **given
    )
    oracle = functools.partial(plain, stride=2, groups=groups, **given)
    found, expected = (
        jax.value_and_grad(lambda x, w, f=f: jnp.sum(f(x, w) ** 2), (0, 1))(x, w[0]) for f in (conv, oracle)
    )
    close(jax.tree.leaves(found), jax.tree.leaves(expected), 1e-5)


def test_kernels_shared_by_members():
    x, w = operands(3, 1, False, (4, 4))
    conv = functools.partial(member_conv.conv, window_strides=(1, 1), padding=[(1, 1)] * 2)
    y = jax.vmap(conv, (0, None))(x, w[0])
    close([y], [jnp.stack([plain(one, w[0], 1, [(1, 1)] * 2, 1) for one in x])], 1e-5)


class Stack(nn.Module):
    """A member of two layers."""

    algorithm: str | None

    @nn.compact
    def __call__(self, x):
        conv = self.algorithm and functools.partial(member_conv.conv, algorithm=self.algorithm)
        x = nn.Conv(4, (3, 3), strides=2, padding=1, use_bias=False, conv_general_dilated=conv)(x)
        return nn.Conv(4, (3, 3), padding=1, use_bias=False, conv_general_dilated=conv)(jnp.tanh(x))


def ensemble(algorithm, members):
    """Four members of a shared trunk: (variables, scale of the trunk, images) -> the sum of a loss."""
    module = nn.vmap(
        Stack, variable_axes={'params': 0}, split_rngs={'params': True}, in_axes=None, axis_size=members
    )(algorithm)
    return module, lambda v, scale, x: (module.apply(v, jnp.tanh(scale * x)) ** 2).sum()


@pytest.mark.parametrize(
    ('algorithm', 'shape'),
    [('auto', s) for s in ((1, 1), (1, 2), (2, 1), (2, 2))]
    + [(algorithm, (2, 2)) for algorithm in ALGORITHMS],
)
def test_any_mesh_gives_the_gradients_of_no_mesh(algorithm, shape):
    x = jnp.asarray(np.random.RandomState(0).standard_normal((4, 6, 6, 3)), jnp.float32)
    module, loss = ensemble(None, 4)
    variables = module.init(jax.random.key(0), x)
    expected = jax.value_and_grad(loss, (0, 1))(variables, jnp.float32(1.1), x)

    mesh = jax.make_mesh(
        shape,
        ('data', 'member'),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices()[: shape[0] * shape[1]],
    )
    _, part = ensemble(algorithm, 4 // shape[1])
    whole = lambda v, scale, x: lax.psum(part(v, scale, x), ('data', 'member'))  # noqa: E731
    found = jax.jit(
        jax.shard_map(
            jax.value_and_grad(whole, (0, 1)),
            mesh=mesh,
            in_specs=(P('member'), P(), P('data')),
            out_specs=(P(), (P('member'), P())),
        )
    )(variables, jnp.float32(1.1), x)
    close(jax.tree.leaves(found), jax.tree.leaves(expected), 1e-5)


def test_under_remat():
    x, w = operands(3, 1, False, (4, 4))
    conv = functools.partial(member_conv.conv, window_strides=(1, 1), padding=[(1, 1)] * 2)
    close(products(jax.checkpoint(conv), x, w, False), products(conv, x, w, False), 1e-6)


def test_unknown_algorithm_lists_the_known_ones():
    x, w = operands(1, 1, True, (2, 2))
    with pytest.raises(
        ValueError, match="'fast'; it must be one of auto, grouped, unrolled, matmul, taps, winograd"
    ):
        member_conv.conv(x, w[0], (1, 1), [(0, 0)] * 2, algorithm='fast')


@pytest.mark.parametrize('extra', [{'padding': 'SAME'}, {'padding': [(1, 1)] * 2, 'rhs_dilation': (2, 2)}])
def test_what_members_do_not_need_is_refused(extra):
    x, w = operands(3, 1, True, (4, 4))
    with pytest.raises(ValueError, match='explicit padding and no dilation'):
        member_conv.conv(x, w[0], (1, 1), **extra)


def test_a_gpu_shares_images_in_one_dense_convolution():
    x, w = operands(3, 1, True, (5, 6))
    conv = functools.partial(
        member_conv.conv, window_strides=(1, 1), padding=[(1, 1)] * 2, algorithm='grouped'
    )
    text = jax.jit(jax.vmap(conv, (None, 0))).lower(x, w).as_text()
    assert text.count('stablehlo.convolution') == 1 and 'feature_group_count = 1 ' in text


@pytest.mark.parametrize(
    ('platform', 'shared', 'laid_out'), [('gpu', False, 3), ('gpu', True, 2), ('cpu', False, 0)]
)
def test_on_a_gpu_activations_have_members_beside_channels(platform, shared, laid_out, monkeypatch):
    """The output, its gradient, and the input's gradient unless that has no members."""
    monkeypatch.setattr(jax, 'default_backend', lambda: platform)
    x, w = operands(3, 1, shared, (6, 5))

    def run(conv):
        def products(x, w):
            y, transpose = jax.vjp(jax.vmap(conv, (None if shared else 0, 0)), x, w)
            return y, *transpose(y)

        return jax.jit(products).lower(x, w)

    ours = run(functools.partial(member_conv.conv, window_strides=(1, 1), padding=((1, 1), (1, 1))))
    assert ours.as_text().count('@LayoutConstraint') == laid_out
    expected = run(functools.partial(plain, stride=1, padding=((1, 1), (1, 1)), groups=1))
    close(ours.compile()(x, w), expected.compile()(x, w), 1e-5)
