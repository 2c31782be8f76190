"""Nearest neighbors against a full stable sort."""

import jax
import ml_dtypes
import numpy as np
import pytest

from sreml_jax.retrieval import nearest as module
from sreml_jax.retrieval.nearest import nearest


@pytest.mark.parametrize(
    ('n', 'd', 'k', 'chunk'), [(2, 1, 1, 1), (37, 1, 11, 7), (90, 4, 200, 13), (130, 6, 5, None)]
)
@pytest.mark.parametrize('same', [True, False])
def test_equals_a_full_sort(n, d, k, chunk, same):
    rng = np.random.default_rng(n)
    query = rng.integers(-2, 3, (n, d)).astype(np.float32)
    gallery = query if same else rng.integers(-2, 3, (n // 2, d)).astype(np.float32)
    similarity = query @ gallery.T
    if same:
        np.fill_diagonal(similarity, -np.inf)
    want = np.argsort(-similarity, 1, kind='stable')[:, : min(k, len(gallery) - same)]
    indices, similarities = nearest(query, gallery, k, same=same, chunk=chunk, devices=jax.devices()[:1])
    np.testing.assert_array_equal(indices, want)
    np.testing.assert_array_equal(similarities, np.take_along_axis(similarity, want, 1))
    assert (indices.dtype, similarities.dtype) == (np.int32, np.float32)


def test_nan_comes_last_but_before_the_query_itself():
    x = np.array([[1, 0], [np.nan, 0], [0, 1], [0.5, 0]], np.float32)
    indices, _ = nearest(x, x, 3, same=True)
    assert indices[0].tolist() == [3, 2, 1]
    assert sorted(indices[1]) == [0, 2, 3]


def test_several_devices_find_the_same():
    x = np.random.default_rng(0).integers(-2, 3, (60, 4)).astype(np.float32)
    one, three = (nearest(x, x, 7, same=True, devices=jax.devices()[:n], chunk=17)[0] for n in (1, 3))
    np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize('queries', [1, 3, 40])
@pytest.mark.parametrize('devices', [1, 3])
def test_few_queries_against_a_long_gallery(queries, devices, monkeypatch):
    monkeypatch.setattr(module, '_TILE_BYTES', 10_000)  # several long blocks
    rng = np.random.default_rng(queries)
    query, gallery = (rng.integers(-2, 3, (n, 5)).astype(np.float32) for n in (queries, 3_001))
    similarity = query @ gallery.T
    want = np.argsort(-similarity, 1, kind='stable')[:, :9]
    indices, similarities = nearest(query, gallery, 9, same=False, devices=jax.devices()[:devices])
    np.testing.assert_array_equal(indices, want)
    np.testing.assert_array_equal(similarities, np.take_along_axis(similarity, want, 1))


@pytest.mark.parametrize('dtype', [np.float16, np.int8, ml_dtypes.bfloat16])
def test_a_gallery_of_another_dtype(dtype):
    rng = np.random.default_rng(1)
    query, gallery = rng.integers(-2, 3, (20, 6)).astype(np.float32), rng.integers(-9, 9, (51, 6))
    want = np.argsort(-(query @ gallery.T), 1, kind='stable')[:, :4]
    indices, _ = nearest(query, gallery.astype(dtype), 4, same=False, chunk=16)
    np.testing.assert_array_equal(indices, want)


def test_no_queries_and_no_gallery():
    none, some = np.zeros((0, 4), np.float32), np.ones((3, 4), np.float32)
    assert nearest(none, some, 2, same=False)[0].shape == (0, 2)
    assert nearest(some, none, 2, same=False)[0].shape == (3, 0)
    assert nearest(some[:1], some[:1], 2, same=True)[0].shape == (1, 0)


@pytest.mark.parametrize(('dtype', 'rows'), [(np.float32, 2048), (np.float16, 2048), (np.int8, 8192)])
def test_long_blocks_of_the_gallery_hold_the_bytes_that_a_cpu_gets(dtype, rows, monkeypatch):
    """Of float16 these are float32's."""
    made = []

    class Noted(module.Blocks):
        def __init__(self, x, order, rows, devices, **options):
            made.append(rows)
            super().__init__(x, order, rows, devices, **options)

    monkeypatch.setattr(module, 'Blocks', Noted)
    monkeypatch.setattr(module, '_TILE_BYTES', 2048 * 8 * 4)
    gallery = np.ones((20_000, 8), dtype)
    nearest(np.ones((1, 8), np.float32), gallery, 1, same=False, devices=jax.devices('cpu')[:1])
    assert made == [16, rows]
