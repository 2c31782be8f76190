"""Checksums of arrays see where each number is, and nothing of the mesh."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from support.checkpoints import mesh_of

from sreml_jax.training import checksums

X = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)


def checksum(x, devices=1, spec=None):
    spec = P('member') if spec is None else spec
    sharding = jax.sharding.NamedSharding(mesh_of(devices), spec)
    (found,) = checksums.of_arrays({'a': jax.device_put(x, sharding)}).values()
    return found


@pytest.mark.parametrize('order', [[1, 0, *range(2, 12)], [*range(11, -1, -1)], [*range(6, 12), *range(6)]])
def test_members_in_another_order_are_another_array(order):
    assert checksum(X[order]) != checksum(X)


def test_each_number_counts():
    found = {checksum(X)}
    for i in range(X.size):
        other = X.copy()
        other.flat[i] = np.nextafter(other.flat[i], np.float32(9))
        found.add(checksum(other))
    assert len(found) == 1 + X.size


def test_the_mesh_does_not_count():
    assert {checksum(X, devices, spec) for devices in (1, 2, 4) for spec in (P(), P('member'))} == {
        checksum(X)
    }
