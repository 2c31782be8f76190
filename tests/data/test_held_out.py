"""Held-out training classes: which, and what is left to train on."""

import numpy as np
import pytest
from support.tiny import tiny_dataset

from sreml_jax.data.held_out import HeldOut, choose
from sreml_jax.runtime.errors import UserError


def test_each_image_is_on_one_side_under_its_own_name():
    whole = tiny_dataset()
    parted = HeldOut(whole, 0.25)
    assert {split: len(np.unique(x)) for split, x in parted.labels.items()} == {
        'train': 6,
        'test': 8,
        'validation': 2,
    }
    assert parted.num_classes == 6 and not set(parted.train_classes) & set(
        parted.class_names['validation'].values()
    )

    def found(dataset, split):
        """(bytes of the image, name of its class), of every image of a split."""
        images = next(dataset.images(split, np.arange(len(dataset.labels[split])), 99))
        names = dataset.class_names[split]
        return {(x.tobytes(), names[int(i)]) for x, i in zip(images, dataset.labels[split], strict=True)}

    assert found(parted, 'train') | found(parted, 'validation') == found(whole, 'train')
    assert found(parted, 'test') == found(whole, 'test')
    assert len(parted.labels['train']) + len(parted.labels['validation']) == 36


def test_the_draw_is_the_same_each_time_and_both_sides_have_two_classes():
    np.testing.assert_array_equal(choose(50, 0.2), choose(50, 0.2))
    assert len(choose(50, 0.2)) == 10 and list(choose(50, 0.2)) != list(range(10))
    for classes, share, message in (
        (10, 0.1, 'holds 1 out and leaves 9'),
        (4, 0.9, 'holds 4 out and leaves 0'),
        (3, 0.5, 'holds 2 out and leaves 1'),
    ):
        with pytest.raises(UserError, match=message):
            choose(classes, share)
