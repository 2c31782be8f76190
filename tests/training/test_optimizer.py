"""Learning-rate schedules against tables made by hand, Adam against its first step's closed form."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from sreml_jax.configs import default
from sreml_jax.runtime.errors import UserError
from sreml_jax.training.optimizer import adam, schedule


def rates(steps_per_epoch=10, **fields):
    config = default.get_config()
    config.update(fields)
    rate = schedule(config, steps_per_epoch)
    return np.array([float(rate(i)) for i in range(config.num_epochs * steps_per_epoch)])


def test_step_schedule_is_dremls():
    got = rates(num_epochs=20)
    assert_allclose(got, np.repeat([1e-4, 1e-5, 1e-6], [100, 40, 60]), rtol=1e-5)


def test_step_schedule_counts_whole_epochs():
    # 50% and 70% of 3 epochs: torch's int() gives milestones 1 and 2.
    assert_allclose(rates(num_epochs=3), np.repeat([1e-4, 1e-5, 1e-6], 10), rtol=1e-5)


def test_the_drops_of_a_short_run_fall_on_steps_of_their_own():
    assert_allclose(rates(num_epochs=1), np.repeat([1e-4, 1e-5, 1e-6], [5, 2, 3]), rtol=1e-5)
    assert_allclose(rates(num_epochs=2), np.repeat([1e-4, 1e-5, 1e-6], [10, 4, 6]), rtol=1e-5)


def test_cosine_schedule():
    got = rates(num_epochs=2, schedule='cosine')
    assert_allclose(got, 1e-4 * (1 + np.cos(np.pi * np.arange(20) / 20)) / 2, rtol=1e-5)


def test_warmup_rises_linearly_over_any_schedule():
    got = rates(num_epochs=20, warmup_epochs=0.5)
    assert_allclose(got[:6], 1e-4 * np.array([0.2, 0.4, 0.6, 0.8, 1.0, 1.0]), rtol=1e-5)
    assert_allclose(got[100:140], 1e-5, rtol=1e-5)


def test_constant_schedule():
    assert_allclose(rates(schedule='constant', learning_rate=0.5), 0.5)


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(UserError, match='warmup_epochs=20'):
        rates(num_epochs=20, warmup_epochs=20.0)


def test_adams_first_step_is_the_rate():
    optimizer = adam(lambda _: 0.1)
    params = jnp.array([1.0, 2.0])
    updates, _ = optimizer.update(jnp.array([3.0, -0.5]), optimizer.init(params), params)
    # 1 - 0.999 in float32 is 1e-5 off.
    assert_allclose(updates, [-0.1, 0.1], rtol=1e-5)
