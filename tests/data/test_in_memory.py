"""Batches of a dataset in memory: each image once, in order, mirrored as drawn, padded, shared out."""

import numpy as np
import pytest
from support.tiny import tiny_dataset

from sreml_jax.data import dataset as order
from sreml_jax.data.held_out import HeldOut
from sreml_jax.data.in_memory import ArrayDataset, color_statistics

TRAIN, TEST = 22, 7


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    images = {
        split: rng.integers(0, 256, (n, 4, 5, 3), np.uint8) for split, n in (('train', TRAIN), ('test', TEST))
    }
    labels = {'train': rng.permutation(np.arange(TRAIN) % 3 * 10 + 5), 'test': np.arange(TEST) // 2 + 40}
    return ArrayDataset('toy', images, labels)


def number_of(dataset, split, image):
    """Index of an image in its split, and whether it is mirrored."""
    for i, known in enumerate(dataset._images[split]):
        if (known == image).all():
            return i, False
        if (known[:, ::-1] == image).all():
            return i, True
    raise AssertionError('an image that is not in the split')


def test_labels_are_numbered_and_named(dataset):
    assert dataset.num_classes == 3
    assert dataset.class_names['train'] == {0: '5', 1: '15', 2: '25'}
    assert dataset.class_names['test'] == {40: '40', 41: '41', 42: '42', 43: '43'}
    assert dataset.evaluation_splits == ('test', 'test')


def test_query_and_gallery_where_there_are_such():
    images = {split: np.zeros((2, 1, 1, 3), np.uint8) for split in ('train', 'query', 'gallery')}
    labels = {split: [0, 1] for split in images}
    assert ArrayDataset('toy', images, labels).evaluation_splits == ('query', 'gallery')


def test_training_batches_follow_the_drawn_order(dataset):
    batches = list(dataset.train_batches(batch_size=5, num_epochs=3, seed=7))
    assert len(batches) == 3 * 4 == 3 * dataset.steps_per_epoch(5)
    for epoch in range(3):
        chosen, flip = order.epoch_order(7, epoch, dataset.labels['train'])
        drawn = [
            number_of(dataset, 'train', x) for b in batches[4 * epoch : 4 * epoch + 4] for x in b['image']
        ]
        assert drawn == list(zip(chosen[:20], flip[:20], strict=True))
        labels = np.concatenate([b['label'] for b in batches[4 * epoch : 4 * epoch + 4]])
        assert (labels == dataset.labels['train'][chosen[:20]]).all() and labels.dtype == np.int32


@pytest.mark.parametrize('first', [1, 4, 7, 12])
def test_a_resumed_run_sees_what_the_whole_one_would(dataset, first):
    whole = list(dataset.train_batches(5, 3, seed=1))[first:]
    resumed = list(dataset.train_batches(5, 3, seed=1, first_step=first))
    assert len(resumed) == len(whole) == 12 - first
    for a, b in zip(whole, resumed, strict=True):
        assert (a['image'] == b['image']).all() and (a['label'] == b['label']).all()


def test_epochs_are_drawn_when_they_are_reached(dataset, monkeypatch):
    drawn = []
    draw = order.epoch_order
    monkeypatch.setattr(
        order, 'epoch_order', lambda seed, epoch, *a: drawn.append(epoch) or draw(seed, epoch, *a)
    )
    batches = dataset.train_batches(5, num_epochs=2**31, seed=1)
    for _ in range(9):
        next(batches)
    assert drawn == [0, 1, 2]
    resumed = dataset.train_batches(5, 2**31, seed=1, first_step=4 * 2**30 + 1)
    next(resumed)
    assert drawn[3:] == [2**30]


def test_one_stream_of_images_goes_over_the_ends_of_epochs(dataset, monkeypatch):
    streams = []
    read = dataset.read
    monkeypatch.setattr(dataset, 'read', lambda *a: streams.append(a) or read(*a))
    assert len(list(dataset.train_batches(5, 3, seed=1))) == 12 and len(streams) == 1


def test_processes_share_a_batch(dataset):
    shares = (slice(0, 2), slice(2, 4))
    whole = list(dataset.train_batches(4, 2, seed=3))
    parts = [list(dataset.train_batches(4, 2, seed=3, rows=rows)) for rows in shares]
    for batch, *own in zip(whole, *parts, strict=True):
        assert (np.concatenate([o['image'] for o in own]) == batch['image']).all()
        assert (np.concatenate([o['label'] for o in own]) == batch['label']).all()
    evaluated = [list(dataset.evaluation_batches('test', 4, rows=rows)) for rows in shares]
    assert [sum(b['mask'].sum() for b in part) for part in evaluated] == [4, 3]


@pytest.mark.parametrize('batch_size', [1, 3, 7, 8, 50])
def test_evaluation_counts_every_image_once(dataset, batch_size):
    batches = list(dataset.evaluation_batches('test', batch_size))
    assert all(b['image'].shape[0] == b['mask'].shape[0] == batch_size for b in batches)
    real = np.concatenate([b['image'][b['mask']] for b in batches])
    assert (real == dataset._images['test']).all()


def test_color_statistics_of_known_pixels():
    images = np.zeros((2, 2, 2, 3), np.uint8)
    images[0, :, :, 0] = 255  # half of all red values are 1
    images[:, 0, :, 1] = 51  # half of all green ones are 0.2
    mean, std = color_statistics(images)
    np.testing.assert_allclose(mean, [0.5, 0.1, 0], atol=1e-12)
    np.testing.assert_allclose(std, [0.5, 0.1, 0], atol=1e-9)


def test_each_epoch_has_at_most_so_many_images_of_a_class(dataset):
    dataset.max_images_per_class = 2
    batches = list(dataset.train_batches(3, 2, seed=1))
    assert len(batches) == 4 == 2 * dataset.steps_per_epoch(3)
    for epoch in (batches[:2], batches[2:]):
        labels = np.concatenate([batch['label'] for batch in epoch])
        assert np.bincount(labels).tolist() == [2, 2, 2]
    whole = tiny_dataset()
    whole.max_images_per_class = 3
    assert HeldOut(whole, 0.25).max_images_per_class == 3
