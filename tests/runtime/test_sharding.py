"""Devices to a mesh: who gets what, and which requests are refused."""

import numpy as np
import pytest
from support.tiny import tiny_config

from sreml_jax.runtime import sharding
from sreml_jax.runtime.errors import UserError


def test_all_devices_share_the_members_by_default():
    assert dict(sharding.make(tiny_config(gpu_ids=(), ensemble_size=48)).shape) == {'data': 1, 'member': 8}


def test_chosen_devices_in_the_given_order():
    mesh = sharding.make(tiny_config(gpu_ids=(5, 2), mesh=(2, 1)))
    assert [d.id for d in mesh.devices.flat] == [5, 2]


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'gpu_ids': (0, 9)}, 'this machine has devices 0,1,2,3,4,5,6,7'),
        ({'gpu_ids': (1, 1)}, 'each may be named once'),
        ({'gpu_ids': (0, 1), 'mesh': (2, 2)}, 'needs 4 devices, but 2 are chosen'),
        ({'gpu_ids': (0, 1, 2), 'ensemble_size': 8}, 'take 1,2,4,8 of them'),
        ({'gpu_ids': (0, 1, 2), 'mesh': (3, 1), 'batch_size': 10}, 'batch_size=10 .* take 1,2,5,10 of them'),
    ],
)
def test_what_does_not_divide_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        sharding.make(tiny_config(**fields))


def test_rows_of_this_process_are_all_of_them_where_it_is_alone():
    mesh = sharding.make(tiny_config(gpu_ids=(0, 1), mesh=(2, 1)))
    assert sharding.local_rows(mesh, 8) == slice(0, 8)
    array = sharding.put(mesh, sharding.IMAGES, np.arange(8.0), 8)
    assert [s.data.tolist() for s in array.addressable_shards] == [[0, 1, 2, 3], [4, 5, 6, 7]]
