"""The ensemble against PyTorch's results on the golden cases, and against the seed's parameter counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose
from support.golden import BACKBONES, SEED_TABLE, Case

from sreml_jax.model.ensemble import Ensemble, embed, normalize
from sreml_jax.training import loss as objective
from sreml_jax.training.optimizer import adam


@pytest.mark.parametrize('meta_classes', SEED_TABLE)
@pytest.mark.parametrize('backbone', BACKBONES)
def test_parameter_counts_are_the_seeds(backbone, meta_classes):
    model = Ensemble(backbone, 48, meta_classes, conv='grouped')
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))['params']
    assert sum(x.size for x in jax.tree.leaves(params)) == SEED_TABLE[meta_classes][BACKBONES.index(backbone)]
    assert all(x.shape[0] == 48 for x in jax.tree.leaves(params['members']))


@pytest.fixture(autouse=True)
def forget_programs():
    """Programs of this size fill the memory of the test run."""
    yield
    jax.clear_caches()


def close(got, want, tolerance=1e-6):
    """Within the tolerance of the largest value: elements near 0 are differences of large ones."""
    assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())


def gradient_function(case):
    """Jitted (params, batch_stats) -> ((loss, (logits, batch_stats)), gradients)."""

    def loss_fn(params, batch_stats):
        logits, updates = case.model.apply(
            {'params': params, 'batch_stats': batch_stats}, case.images, train=True, mutable=['batch_stats']
        )
        loss = objective.cross_entropy(logits, case.meta_labels).mean()
        return loss, (logits, updates['batch_stats'])

    return jax.jit(jax.value_and_grad(loss_fn, has_aux=True))


def as_torch_counts(new, old, values):
    """torch's running variance: the new tenth of it is unbiased, over n values it divides by n - 1."""
    return 0.9 * old + (new - 0.9 * old) * values / (values - 1)


# The wiring of all four is compared in float64. What a dtype rounds depends on the kind of block alone: a
# basic block, or a bottleneck with groups.
KINDS = ('resnet18', 'resnext50_32x4d')
AUTO = {'float64': KINDS, 'float32': KINDS[1:], 'bfloat16': ()}


def algorithm(backbone, dtype):
    """'auto' in few cases, else what compiles fastest: the algorithms have tests of their own."""
    return 'auto' if backbone in AUTO[dtype] else 'matmul'


@pytest.mark.parametrize('backbone', BACKBONES)
def test_float64_equals_pytorch(backbone):
    with jax.enable_x64(True):
        case = Case(backbone, conv=algorithm(backbone, 'float64'))
        expected, images = case.expected, len(case.images)
        logits = jax.jit(case.model.apply)(case.variables, case.images)
        close(logits, expected['eval_logits'])
        close(embed(logits), expected['eval_embedding'])

        gradient = gradient_function(case)
        params, stats = case.variables['params'], case.variables['batch_stats']
        optimizer = adam(optax.constant_schedule(1e-4))
        update = jax.jit(optimizer.update)
        opt_state = jax.jit(optimizer.init)(params)
        losses = []
        # The update is the same code for all backbones: of three steps, one backbone is enough.
        steps = 3 if backbone == 'resnet18' else 1
        for i in range(steps):
            old = stats
            (loss, (logits, stats)), gradients = gradient(params, stats)
            losses.append(float(loss))
            if i == 0:
                close(logits, expected['train_logits'])
                assert_allclose(case.norms(gradients), expected['grad_norms'], rtol=1e-6)
                ours, before = (s['trunk']['bn1'] for s in (stats, old))
                close(ours['mean'], expected['bn1_running_mean'])
                variance = as_torch_counts(ours['var'], before['var'], images * 48 * 48)
                close(variance, expected['bn1_running_var'])
                # layer4's first convolution has a stride in basic blocks only: 3x3 or 6x6 of 96x96 images.
                side = 3 if backbone in ('resnet18', 'resnet34') else 6
                ours, before = (s['members']['layer4']['0']['bn1']['var'][1] for s in (stats, old))
                variance = as_torch_counts(ours, before, images * side**2)
                close(variance, expected['member1_layer4_bn1_running_var'])
            if i + 1 < steps:
                updates, opt_state = update(gradients, opt_state)
                params = optax.apply_updates(params, updates)
        assert_allclose(losses, expected['losses'][:steps], rtol=1e-6)


@pytest.mark.parametrize('backbone', KINDS)
def test_float32_is_near_pytorch(backbone):
    case = Case(backbone, np.float32, conv=algorithm(backbone, 'float32'))
    logits = jax.jit(case.model.apply)(case.variables, case.images)
    close(logits, case.expected['eval_logits'], 1e-4)
    (loss, _), gradients = gradient_function(case)(case.variables['params'], case.variables['batch_stats'])
    assert_allclose(loss, case.expected['losses'][0], rtol=1e-3)
    assert_allclose(case.norms(gradients), case.expected['grad_norms'], rtol=2e-2)


@pytest.mark.parametrize('backbone', KINDS)
def test_bfloat16_loss_is_near_float32(backbone):
    """The mean loss over many roundings is within 3%, as far as 16 samples of them can show.

    BatchNorm sees four images only, so one rounding alone is up to 13% off. Another processor draws other
    samples of the same distribution; a bound of three standard errors holds for all of them.
    """
    case = Case(backbone, np.float32, dtype='bfloat16', conv=algorithm(backbone, 'bfloat16'))
    forward = jax.jit(
        functools.partial(case.model.apply, train=True, mutable=['batch_stats']),
        compiler_options={'xla_backend_optimization_level': 1},  # it runs 16 times
    )
    samples = []
    for i in range(16):  # BatchNorm removes the scale; the rounding of the images remains
        logits, _ = forward(case.variables, case.images * (1 + 1e-3 * i))
        samples.append(objective.cross_entropy(logits, case.meta_labels).mean())
    relative = np.array(samples) / case.expected['losses'][0] - 1
    standard_error = relative.std(ddof=1) / np.sqrt(len(relative))
    assert standard_error < 0.02
    assert abs(relative.mean()) < 0.03 + 3 * standard_error


def test_remat_changes_no_gradient():
    images = np.random.RandomState(0).standard_normal((4, 16, 16, 3)).astype(np.float32)
    options = {'width': 4, 'stem': 'small', 'conv': 'grouped'}
    models = [Ensemble('resnet18', 2, 5, remat=remat, **options) for remat in (False, True)]
    variables = jax.jit(models[0].init)(jax.random.key(0), images)

    def gradient(model):
        def loss(params):
            logits, _ = model.apply(
                {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
            )
            return jnp.square(logits).sum()

        return jax.jit(jax.grad(loss), compiler_options={'xla_backend_optimization_level': 0})

    kept, again = (gradient(model).lower(variables['params']) for model in models)
    counts = [lowered.as_text().count('stablehlo.convolution') for lowered in (kept, again)]
    assert counts[1] >= counts[0] + 19  # the blocks' own, once more
    jax.tree.map(lambda a, b: close(a, b, 1e-4), *(x.compile()(variables['params']) for x in (again, kept)))


def test_small_stem_and_width():
    model = Ensemble('resnet18', 2, 5, width=8, stem='small', conv='grouped')
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 20, 20, 3))))['params']
    assert shapes['trunk']['conv1']['kernel'].shape == (3, 3, 3, 8)
    assert shapes['members']['layer4']['1']['conv2']['kernel'].shape == (2, 3, 3, 64, 64)
    assert shapes['members']['fc']['kernel'].shape == (2, 64, 5)


def test_embedding_by_hand():
    logits = jnp.array([[[3.0, 4.0], [0.0, -2.0]], [[0.0, 0.0], [1.0, 0.0]]])
    half = np.sqrt(0.5)
    assert_allclose(embed(logits), [[0.6 * half, 0.8 * half, 0, -half], [0, 0, half, 0]], rtol=1e-6)
    assert embed(logits.astype(jnp.bfloat16)).dtype == jnp.float32


def test_normalize_by_hand():
    images = np.array([[[[0, 51, 255]]]], np.uint8)
    mean, std = np.array([0.5, 0.2, 0.0], np.float32), np.array([0.5, 0.1, 2.0], np.float32)
    assert_allclose(normalize(images, mean, std), [[[[-1.0, 0.0, 0.5]]]], atol=1e-6)
