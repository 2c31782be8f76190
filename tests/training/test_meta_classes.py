"""The table of meta classes: balance, independence, seeding."""

import numpy as np
import pytest

from sreml_jax.training import meta_classes


@pytest.mark.parametrize(('classes', 'groups'), [(98, 12), (12, 12), (25, 12), (11_318, 500)])
def test_every_meta_class_gets_floor_or_ceil(classes, groups):
    table = meta_classes.draw(classes, 5, groups, seed=3)
    assert table.shape == (5, classes)
    for row in table:
        sizes = np.bincount(row, minlength=groups)
        assert len(sizes) == groups
        assert set(sizes) <= {classes // groups, -(-classes // groups)}


def test_members_differ_and_the_seed_decides():
    table = meta_classes.draw(98, 48, 12, seed=0)
    assert len({row.tobytes() for row in table}) == 48
    np.testing.assert_array_equal(table, meta_classes.draw(98, 48, 12, seed=0))
    assert (table != meta_classes.draw(98, 48, 12, seed=1)).any()


def test_members_agree_on_a_pair_of_classes_as_often_as_chance_says():
    classes, groups = 96, 12
    table = meta_classes.draw(classes, 2000, groups, seed=0)
    together = np.mean(table[:, 0] == table[:, 1])
    expected = (classes / groups - 1) / (classes - 1)  # 7 of the 95 others
    assert abs(together - expected) < 4 * np.sqrt(expected / 2000)


def test_which_meta_classes_get_one_more_is_random():
    larger = {np.bincount(row, minlength=3).argmax() for row in meta_classes.draw(4, 50, 3, seed=0)}
    assert larger == {0, 1, 2}
