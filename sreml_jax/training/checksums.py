"""Checksums of arrays, made on the devices that hold them, and of JSON.

A checksum is the sum of a hash of each element's bits and position, modulo 2**32. The sum is exact in any
order: it depends neither on the mesh nor on the kind of device. One changed bit always changes it, since the
hash maps 32 bits to 32 bits one to one: it is the finalizer of MurmurHash3 (Appleby, public domain).
"""

import functools
import json
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def of_arrays(tree: Any) -> dict[str, int]:
    """Returns the checksum of each array of a tree by its path, such as 'params/trunk/conv1/kernel'.

    The arrays lie on a mesh (NamedSharding); several hosts must all call it, and get the same.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # One at a time: hosts may run concurrent programs in different orders, and hang.
    sums = [int(_on(array.sharding.mesh)(array)) for _, array in leaves]
    names = (jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in leaves)
    return dict(zip(names, sums, strict=True))


def of_json(value: Any) -> int:
    """Returns the checksum of what JSON can hold; tuples count as lists."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


@functools.cache
def _on(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(_sum, out_shardings=NamedSharding(mesh, P()))


def _sum(x: jax.Array) -> jax.Array:
    """Returns the checksum of one array of elements of at most 32 bits, uint32 []."""
    bits = jax.lax.bitcast_convert_type(x, f'uint{8 * x.dtype.itemsize}').astype(jnp.uint32)
    position = jnp.arange(x.size, dtype=jnp.uint32).reshape(x.shape)
    return _hash(bits ^ _hash(position)).sum(dtype=jnp.uint32)


def _hash(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
