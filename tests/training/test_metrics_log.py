"""Numbers that are not finite: the run stops, what was saved stays, and updates are left out on demand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.runs import NoSignals, StopAfter, adam_of, final_state, lines
from support.tiny import tiny_config, tiny_dataset

from sreml_jax.run import Run
from sreml_jax.runtime import sharding
from sreml_jax.runtime.errors import RunError
from sreml_jax.train import train
from sreml_jax.training import step
from sreml_jax.training.epochs import Epochs
from sreml_jax.training.metrics_log import MetricsLog

pytestmark = pytest.mark.usefixtures('few_blocks')

STD = np.full(3, 0.5, np.float32)


def steps_of(mean, skip, poisoned=None):
    """The state before and after one step, and its metrics; `poisoned`: the member with a NaN in it."""
    config = tiny_config(gpu_ids=(0, 1))
    run = Run.of(config)
    adam = adam_of(run)
    state = step.initial_state(run.model, adam, run.mesh, 0)
    if poisoned is not None:
        bias = state.params['members']['fc']['bias']
        state.params['members']['fc']['bias'] = bias.at[poisoned].set(np.nan)
    before = jax.device_get(state)
    train_step = step.make_train_step(
        run.model, adam, run.mesh, np.float32([mean] * 3), STD, skip_nonfinite=skip
    )
    put = functools.partial(sharding.put, run.mesh, sharding.IMAGES, rows=8)
    random = np.random.default_rng(0)
    images, labels = (
        put(random.integers(0, 255, (8, 16, 16, 3), dtype=np.uint8)),
        put(np.arange(8, dtype=np.int32)),
    )
    table = sharding.put_whole(run.mesh, sharding.META_TABLE, random.integers(0, 4, (2, 8), dtype=np.int32))
    state, metrics = train_step(state, images, labels, table)
    return config, before, state, metrics


def test_an_update_that_is_not_finite_is_left_out():
    _, before, after, metrics = steps_of(np.nan, skip=True)
    assert metrics['skipped'] and after.step == 1
    for part in ('params', 'batch_stats', 'opt_state'):
        jax.tree.map(
            np.testing.assert_array_equal, getattr(before, part), jax.device_get(getattr(after, part))
        )


def test_an_update_whose_gradient_alone_is_not_finite_is_left_out(monkeypatch):
    plain = step.cross_entropy

    def flat(logits, labels, smoothing=0.0):  # adds 0, whose gradient is infinity times 0
        return plain(logits, labels, smoothing) + jnp.sqrt(0.0 * jnp.square(logits).sum(-1))

    monkeypatch.setattr(step, 'cross_entropy', flat)
    _, before, after, metrics = steps_of(0.5, skip=True)
    assert np.isfinite(metrics['loss']) and metrics['skipped']
    jax.tree.map(np.testing.assert_array_equal, before.params, jax.device_get(after.params))


def test_an_update_whose_loss_alone_is_not_finite_is_left_out(monkeypatch):
    plain = step.cross_entropy
    monkeypatch.setattr(step, 'cross_entropy', lambda *given: plain(*given) + jnp.inf)
    _, before, after, metrics = steps_of(0.5, skip=True)
    assert np.isinf(metrics['loss']) and metrics['skipped']
    jax.tree.map(np.testing.assert_array_equal, before.params, jax.device_get(after.params))


def test_a_finite_update_is_the_same_with_and_without_skipping():
    (_, _, one, metrics), (_, _, other, _) = (steps_of(0.5, skip) for skip in (True, False))
    assert not metrics['skipped']
    assert np.mean(metrics['member_losses']) == pytest.approx(float(metrics['loss']), rel=1e-5)
    # Gradients, not bit by bit: XLA fuses the two programs differently. Adam divides a gradient near zero by
    # its own size, so parameters would show what is rounded there.
    moments = [jax.tree.leaves(state.opt_state[0].mu) for state in (one, other)]
    for mine, others in zip(*moments, strict=True):
        assert np.abs(mine - others).max() <= 1e-4 * np.abs(others).max() > 0
    changed = jax.tree.map(lambda a, b: np.abs(a - b).max(), one.params, other.params)
    assert max(jax.tree.leaves(changed)) <= 2.001e-3  # two updates at a rate of 1e-3


def test_the_sentence_names_the_members_and_the_rate(tmp_path):
    config, _, state, metrics = steps_of(0.5, skip=False, poisoned=1)
    assert np.isfinite(metrics['member_losses']).tolist() == [True, False]
    metrics_log = MetricsLog(config, tmp_path, 0, Epochs(3, 4), lambda number: 0.25 * (number + 1))
    with pytest.raises(RunError, match=r'step 3 is not finite \(members: 1; learning rate 0.75\)'):
        metrics_log.add(3, metrics)
    # The trunk's gradient is the sum over members.
    with pytest.raises(RunError, match='the trunk after step 3 is not finite'):
        metrics_log.check(3, state)
    metrics_log.close()
    assert lines(tmp_path) == []


@pytest.mark.parametrize(
    ('part', 'path', 'value', 'told'),
    [
        (
            'params',
            ('members', 'fc', 'bias'),
            np.nan,
            r'the members after step 3 is not finite \(members: 1;',
        ),
        ('batch_stats', ('members', 'layer4', '0', 'bn1', 'var'), np.inf, r'the members after .*members: 1;'),
        ('params', ('trunk', 'conv1', 'kernel'), np.nan, r'the trunk after step 3 .*members: none alone'),
        ('batch_stats', ('trunk', 'bn1', 'mean'), np.inf, r'the trunk after step 3'),
    ],
)
def test_every_part_of_a_state_is_looked_at(part, path, value, told, tmp_path):
    config = tiny_config()
    run = Run.of(config)
    state = step.initial_state(run.model, adam_of(run), run.mesh, 0)
    tree = getattr(state, part)
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = tree[path[-1]].at[1].set(value)
    metrics_log = MetricsLog(config, tmp_path, 0, Epochs(3, 4), lambda _: 0.1)
    with pytest.raises(RunError, match=told):
        metrics_log.check(3, state)
    metrics_log.close()


def test_a_run_stops_and_its_checkpoint_stays(tmp_path):
    config = tiny_config(num_epochs=1)
    train(config, tmp_path, tiny_dataset(), NoSignals())
    logged, (_, saved) = lines(tmp_path), final_state(config, tmp_path)
    worse = tiny_config(num_epochs=2, learning_rate=1e30, schedule='constant')
    with pytest.raises(
        RunError, match=r'is not finite \(members: .*learning rate 1e\+30\); it was not saved'
    ):
        train(worse, tmp_path, tiny_dataset(), NoSignals())
    newest, state = final_state(config, tmp_path)
    assert newest == 4
    jax.tree.map(np.testing.assert_array_equal, state, saved)
    assert lines(tmp_path)[:4] == logged
    # And the same command with a bearable rate goes on.
    train(tiny_config(num_epochs=2), tmp_path, tiny_dataset(), NoSignals())
    assert [line['step'] for line in lines(tmp_path)] == list(range(1, 9))


def test_no_more_updates_are_left_out_than_allowed(tmp_path):
    config = tiny_config(learning_rate=1e30, schedule='constant', skip_nonfinite=2)
    with pytest.raises(RunError, match='2 updates were skipped before'):
        train(config, tmp_path, tiny_dataset(), NoSignals())
    assert [line.get('skipped') for line in lines(tmp_path)][-2:] == [1.0, 1.0]


def test_updates_left_out_before_a_resume_count_and_each_is_logged(tmp_path):
    fields = {'learning_rate': 1e30, 'schedule': 'constant', 'skip_nonfinite': 2, 'log_every': 100}
    with pytest.raises(SystemExit):
        train(tiny_config(**fields), tmp_path, tiny_dataset(), StopAfter(2))
    assert lines(tmp_path)[-1]['skipped'] == 1.0
    with pytest.raises(RunError, match=r'of step 4 is not finite .*, 2 updates were skipped before'):
        train(tiny_config(**fields), tmp_path, tiny_dataset(), NoSignals())
    assert [(line['step'], line['skipped']) for line in lines(tmp_path)] == [(2, 1.0), (3, 1.0)]


def test_what_was_left_out_before_stops_no_run_that_may_leave_out_no_more(tmp_path):
    metrics = {'loss': 1.0, 'accuracy': 0.5, 'member_losses': np.ones(2), 'skipped': False}
    metrics_log = MetricsLog(
        tiny_config(skip_nonfinite=0), tmp_path, 7, Epochs(3, 4), lambda _: 0.1, skipped=2
    )
    metrics_log.add(8, metrics)
    assert [line['step'] for line in lines(tmp_path)] == [8] and metrics_log.skipped == 2
    with pytest.raises(RunError, match=r'step 9 is not finite .* 2 updates were skipped before'):
        metrics_log.add(9, metrics | {'loss': np.nan, 'skipped': True})
    metrics_log.close()
