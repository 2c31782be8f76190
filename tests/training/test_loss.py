"""Loss and accuracy against closed forms."""

import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from sreml_jax.training import loss


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[[0.2, 0.8], [0.5, 0.5]]]))
    labels = jnp.array([[1, 0]])
    assert_allclose(loss.cross_entropy(logits, labels), [[-np.log(0.8), np.log(2)]], rtol=1e-6)


def test_smoothed_targets_by_hand():
    logits = jnp.log(jnp.array([[[0.2, 0.5, 0.3]]]))
    smoothed = loss.cross_entropy(logits, jnp.array([[1]]), 0.3)  # targets 0.1, 0.8, 0.1
    assert_allclose(smoothed, [[-np.dot([0.1, 0.8, 0.1], np.log([0.2, 0.5, 0.3]))]], rtol=1e-6)


def test_cross_entropy_of_bfloat16_is_summed_in_float32():
    losses = loss.cross_entropy(jnp.zeros((1, 1, 500), jnp.bfloat16), jnp.array([[7]]))
    assert losses.dtype == jnp.float32
    assert_allclose(losses, np.log(500), rtol=1e-6)


def test_correct_by_hand():
    logits = jnp.array([[[0.0, 1.0], [3.0, 2.0]], [[5.0, 1.0], [0.0, 2.0]]])
    assert_array_equal(loss.correct(logits, jnp.array([[1, 1], [0, 1]])), [[True, False], [True, True]])
