"""The order of the data: complete, seeded, different every epoch."""

import numpy as np

from sreml_jax.data import dataset

LABELS = np.repeat(np.arange(7), [1, 2, 3, 4, 5, 60, 7])


def test_every_image_once_an_epoch():
    for epoch in range(3):
        chosen, flip = dataset.epoch_order(0, epoch, LABELS)
        assert sorted(chosen) == list(range(len(LABELS)))
        assert flip.shape == chosen.shape and flip.dtype == bool


def test_a_function_of_seed_and_epoch():
    def drawn(seed, epoch):
        return tuple(np.concatenate(dataset.epoch_order(seed, epoch, LABELS)))

    draws = {(seed, epoch): drawn(seed, epoch) for seed in range(3) for epoch in range(3)}
    assert len(set(draws.values())) == 9
    assert all(drawn(*key) == value for key, value in draws.items())


def test_half_of_the_images_are_mirrored():
    flips = np.concatenate([dataset.epoch_order(0, epoch, LABELS)[1] for epoch in range(50)])
    assert abs(flips.mean() - 0.5) < 0.03  # 4,100 draws: four standard deviations


def test_at_most_a_number_of_a_class_drawn_again_each_epoch():
    seen = set()
    for epoch in range(40):
        chosen, flip = dataset.epoch_order(5, epoch, LABELS, 3)
        assert np.bincount(LABELS[chosen]).tolist() == [1, 2, 3, 3, 3, 3, 3]
        assert len(set(chosen)) == len(chosen) == len(flip) == dataset.images_per_epoch(LABELS, 3) == 18
        seen.update(chosen)
    assert len(seen) > 65  # of 82: the sixty of one class take turns


def test_the_balanced_order_is_shuffled_too():
    chosen, _ = dataset.epoch_order(0, 0, LABELS, 3)
    assert (np.diff(LABELS[chosen]) < 0).any() and (np.diff(chosen) < 0).any()


def test_images_per_epoch():
    assert dataset.images_per_epoch(LABELS) == 82
    assert dataset.images_per_epoch(LABELS, 100) == 82
    assert dataset.images_per_epoch(LABELS, 5) == 1 + 2 + 3 + 4 + 5 + 5 + 5
