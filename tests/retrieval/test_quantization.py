"""Embeddings stored as float32, float16 and int8: bounds of the rounding from arithmetic."""

import numpy as np
import pytest

from sreml_jax.retrieval import quantization


def drawn(bound: float = 0.5) -> np.ndarray:
    return np.random.default_rng(0).uniform(-bound, bound, (50, 40)).astype(np.float32)


def stored(x: np.ndarray, storage: str, bound: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns `x` as it is stored, and as it is read back."""
    scale = quantization.scale_of(storage, bound)
    kept = quantization.encode(x, storage, scale)
    back = quantization.decode(kept, scale)
    assert kept.dtype == storage and back.dtype == np.float32
    return kept, back


def test_every_choice_is_a_dtype():
    assert [np.dtype(name).itemsize for name in quantization.CHOICES] == [4, 2, 1]


def test_float32_changes_nothing():
    x = drawn()
    np.testing.assert_array_equal(stored(x, 'float32', 0.5)[1], x)


def test_float16_rounds_to_eleven_digits():
    x = drawn()
    back = stored(x, 'float16', 0.5)[1]
    assert (np.abs(back - x) <= np.abs(x) * 2.0**-11 + 2.0**-25).all()  # half a unit; subnormals
    assert (back != x).any()


@pytest.mark.parametrize('bound', [0.5, 48**-0.5, 3.0])
def test_int8_rounds_to_the_nearest_of_255_values(bound):
    x = drawn(bound)
    kept, back = stored(x, 'int8', bound)
    step = bound / 127
    np.testing.assert_array_equal(kept, np.rint(x.astype(np.float64) / np.float32(step)).astype(int))
    assert np.abs(back - x).max() <= step / 2 * (1 + 1e-5)
    assert np.abs(kept.astype(int)).max() == 127


def test_int8_cuts_what_exceeds_the_bound():
    kept, back = stored(np.array([[2.0, -2.0, 0.5, 0.0]], np.float32), 'int8', 0.5)
    assert kept.tolist() == [[127, -127, 127, 0]]
    np.testing.assert_allclose(back, [[0.5, -0.5, 0.5, 0]], rtol=1e-6)
