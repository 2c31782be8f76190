"""The ensemble against PyTorch's results on the golden cases, and against the seed's parameter counts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import BACKBONES, Case
from numpy.testing import assert_allclose

from sreml_jax.learning import objective
from sreml_jax.learning.optimizer import adam
from sreml_jax.model.ensemble import Ensemble, embed, normalise

SEED_TABLE = {  # the seed's parameter counts, and the cells it left open (issue 2)
    12: (529_365_376, 1_011_079_808, 1_118_974_592, 1_094_093_696),
    192: (533_797_696, 1_015_512_128, 1_136_677_952, 1_111_797_056),
    500: (541_381_888, 1_023_096_320, 1_166_970_368, 1_142_089_472),
}


@pytest.mark.parametrize('meta_classes', SEED_TABLE)
@pytest.mark.parametrize('backbone', BACKBONES)
def test_parameter_counts_are_the_seeds(backbone, meta_classes):
    model = Ensemble(backbone, 48, meta_classes, conv='grouped')
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))['params']
    count = sum(x.size for x in jax.tree.leaves(params))
    assert count == SEED_TABLE[meta_classes][BACKBONES.index(backbone)]
    assert all(x.shape[0] == 48 for x in jax.tree.leaves(params['members']))


def train_functions(case):
    def loss_fn(params, batch_stats):
        logits, updates = case.model.apply(
            {'params': params, 'batch_stats': batch_stats}, case.images, train=True, mutable=['batch_stats']
        )
        loss = objective.cross_entropy(logits, case.meta_labels).mean()
        return loss, (logits, updates['batch_stats'])

    return jax.jit(jax.value_and_grad(loss_fn, has_aux=True))


@pytest.mark.parametrize('backbone', BACKBONES)
def test_float64_equals_pytorch(backbone):
    with jax.enable_x64(True):
        case = Case(backbone)
        expected = case.expected
        close = lambda got, want: assert_allclose(got, want, rtol=1e-6, atol=1e-6 * np.abs(want).max())  # noqa: E731

        logits = jax.jit(case.model.apply)(case.variables, case.images)
        close(logits, expected['eval_logits'])
        close(embed(logits), expected['eval_embedding'])

        step = train_functions(case)
        params, stats = case.variables['params'], case.variables['batch_stats']
        optimizer = adam(optax.constant_schedule(1e-4))
        opt_state = optimizer.init(params)
        losses = []
        for i in range(3):
            (loss, (logits, stats)), grads = step(params, stats)
            losses.append(float(loss))
            if i == 0:
                close(logits, expected['train_logits'])
                assert_allclose(case.norms(grads), expected['grad_norms'], rtol=1e-6)
                close(stats['trunk']['bn1']['mean'], expected['bn1_running_mean'])
                # torch's running variance is the unbiased one: n / (n - 1) of ours, for the new tenth of it.
                for ours, before, want, values in (
                    (stats['trunk']['bn1']['var'], case.variables['batch_stats']['trunk']['bn1']['var'],
                     expected['bn1_running_var'], 48 * 48),
                    (stats['members']['layer4']['0']['bn1']['var'][1],
                     case.variables['batch_stats']['members']['layer4']['0']['bn1']['var'][1],
                     expected['member1_layer4_bn1_running_var'], 3 * 3 if 'resnet18' in backbone or '34' in backbone else 6 * 6),
                ):  # fmt: skip
                    n = len(case.images) * values
                    close(0.9 * before + (ours - 0.9 * before) * n / (n - 1), want)
            updates, opt_state = jax.jit(optimizer.update)(grads, opt_state)
            params = optax.apply_updates(params, updates)
        assert_allclose(losses, expected['losses'], rtol=1e-6)
