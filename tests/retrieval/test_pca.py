"""PCA and whitening against scikit-learn, closed forms and brute force; the file, and which are refused."""

import os

import numpy as np
import pytest
from sklearn.decomposition import PCA
from support.compiled import programs

from sreml_jax.retrieval import pca
from sreml_jax.runtime.errors import UserError


def embeddings(images: int, d: int) -> np.ndarray:
    """Rows of unit length whose axes have very different variances."""
    random = np.random.default_rng(images)
    x = random.normal(size=(images, d)) * np.geomspace(1, 0.01, d) @ random.normal(size=(d, d)) + 1
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(('images', 'd'), [(200, 24), (20, 48)])
def test_equals_scikit_learn(images, d):
    x, other = embeddings(images, d), embeddings(images + 1, d)
    expected = PCA(6, whiten=True, svd_solver='full').fit(x.astype(np.float64)).transform(other)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = np.asarray(pca.fit(x, 6)(other, 6))
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=2e-4)


def test_fewer_dimensions_are_the_first_ones():
    x = embeddings(100, 16)
    short = pca.fit(x, 8)
    eight, three = np.asarray(short(x, 8))[:, :3], np.asarray(short(x, 3))
    np.testing.assert_allclose(three, eight / np.linalg.norm(eight, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(three, axis=1), 1, atol=1e-5)


def test_only_changes_the_dimensions_but_not_the_shapes():
    x = embeddings(100, 16)
    whole = pca.fit(x, 8)
    short = np.asarray(whole.only(3)(x, 8))
    np.testing.assert_array_equal(short[:, 3:], 0)
    np.testing.assert_allclose(short[:, :3], whole(x, 3), atol=1e-6)
    with programs() as compiled:
        for dimensions in (2, 5, 7):
            whole.only(dimensions)(x, 8)
    assert not compiled


def test_bounds_are_the_greatest_values_in_the_training_embeddings():
    x = embeddings(60, 10)
    short = pca.fit(x, 7)
    for dimensions in (1, 4, 7):
        greatest = np.abs(np.asarray(short(x, dimensions))).max()
        assert short.bounds[dimensions - 1] == pytest.approx(greatest, rel=1e-5)


@pytest.mark.parametrize('images', [50, 6])
def test_an_axis_without_variance_is_zero(images):
    x = embeddings(images, 8)
    x[:, 3:] = 0.25
    x[4:] = x[[i % 4 for i in range(len(x) - 4)]]
    short = pca.fit(x, 5)
    found = np.asarray(short(x, 5))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:, 3:], 0)
    assert np.abs(found[:, :3]).max(0).min() > 0.1


def test_the_file_of_an_older_fingerprint_is_accepted(tmp_path):
    made = pca.fit(embeddings(40, 12), 6)
    pca.save(tmp_path, 'logits', made, 'old')
    np.testing.assert_array_equal(pca.load(tmp_path, 'logits', 4, ('v2:new', 'old')).axes, made.axes)


def test_the_file_and_which_files_are_refused(tmp_path):
    x = embeddings(40, 12)
    short = pca.fit(x, 6)
    with pytest.raises(UserError, match=r'needs .*shrinking.npz, which is not there; make it by --mode=eval'):
        pca.load(tmp_path, 'logits', 4, ('abc',))
    pca.save(tmp_path, 'logits', short, 'abc')
    assert [path.name for path in tmp_path.iterdir()] == ['shrinking.npz']
    for there, back in zip(short, pca.load(tmp_path, 'logits', 6, ('abc',)), strict=True):
        np.testing.assert_array_equal(back, there)
    with pytest.raises(UserError, match='another checkpoint; make it by --mode=eval'):
        pca.load(tmp_path, 'logits', 4, ('abd',))
    with pytest.raises(UserError, match=r'shrinking_pooled.npz, which is not there; make it by .*=pooled '):
        pca.load(tmp_path, 'pooled', 4, ('abc',))
    with pytest.raises(
        UserError, match=r'needs .*_mirrored\.npz, which is not there.* --config.mirrored=True'
    ):
        pca.load(tmp_path, 'logits', 4, ('abc',), mirrored=True)
    with pytest.raises(UserError, match=r'gives at most 6 dimensions; make it by .*embedding_dim=7'):
        pca.load(tmp_path, 'logits', 7, ('abc',))


def arrays_missing(path):
    np.savez(path, fingerprint='abc', mean=np.zeros(3))


def pickled(path):
    """An object array, which would run code if numpy unpickled it."""
    np.savez(path, fingerprint='abc', mean=np.array([print], object), axes=np.eye(3), bounds=np.ones(3))


@pytest.mark.parametrize(
    'spoil',
    [
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_text('text'),
        arrays_missing,
        pickled,
    ],
)
def test_a_damaged_file_is_refused(spoil, tmp_path):
    pca.save(tmp_path, 'logits', pca.fit(embeddings(40, 12), 6), 'abc')
    spoil(tmp_path / 'shrinking.npz')
    with pytest.raises(UserError, match=r'shrinking.npz cannot be read \(.*\); make it by --mode=eval'):
        pca.load(tmp_path, 'logits', 4, ('abc',))


def test_the_digest_is_of_the_axes_that_are_used():
    made = pca.fit(embeddings(40, 12), 6)
    other = made._replace(axes=made.axes * np.array([1, 1, 1, 1, -1, 1], np.float32)[:, None])
    assert made.digest(4) == other.digest(4) != made.digest(3)
    assert made.digest(5) != other.digest(5)
    assert made.digest(5) != made._replace(mean=made.mean + 1).digest(5)


def test_the_names_are_those_of_all_files(tmp_path):
    made = pca.fit(embeddings(40, 12), 6)
    for embedding in ('logits', 'pooled'):
        for mirrored in (False, True):
            pca.save(tmp_path, embedding, made, 'abc', mirrored=mirrored)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(pca.names())
