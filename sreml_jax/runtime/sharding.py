"""Makes the mesh ('data', 'member') of the devices, and says what lies where on it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from sreml_jax.runtime.errors import UserError

IMAGES = P('data')  # rows of a batch
META_TABLE = P('member')  # [members, classes]
EMBEDDING = P('data', 'member')  # [batch, members * dimensions of each]


def make(config: ConfigDict) -> Mesh:
    """Returns the mesh of the chosen devices; by default all are on the member axis.

    Raises:
      UserError: unknown gpu_ids, or sizes that do not divide the members or the batch.
    """
    devices = jax.devices()
    if config.gpu_ids:
        # The same devices of every host, host by host.
        hosts = [
            {i: d for i, d in enumerate(d for d in devices if d.process_index == process)}
            for process in range(jax.process_count())
        ]
        unknown = sorted(i for i in set(config.gpu_ids) if any(i not in host for host in hosts))
        if unknown or len(set(config.gpu_ids)) < len(config.gpu_ids):
            raise UserError(
                f'gpu_ids={_numbers(config.gpu_ids)}: this machine has devices {_numbers(hosts[0])}, '
                'and each may be named once'
            )
        devices = [host[i] for host in hosts for i in config.gpu_ids]
    shape = mesh_shape(config, len(devices))
    # Explicit axes, make_mesh's default, do not pass through nn.vmap.
    return jax.make_mesh(shape, ('data', 'member'), (AxisType.Auto,) * 2, devices=devices)


def mesh_shape(config: ConfigDict, devices: int) -> tuple[int, int]:
    """Returns (data, member), the devices along each axis of the mesh; default: all on the member axis.

    Raises:
      UserError: config.mesh has another number of devices, or members or batches do not divide evenly.
    """
    data, member = config.mesh or (1, devices)
    if data < 1 or member < 1 or data * member != devices:
        raise UserError(
            f'mesh={_numbers(config.mesh)} needs {data * member} devices, but {devices} are chosen; '
            'set gpu_ids or mesh so that they agree'
        )
    if config.ensemble_size % member:
        raise UserError(
            f'ensemble_size={config.ensemble_size} cannot be shared evenly by {member} devices; '
            f'take {_numbers(divisors(config.ensemble_size))} of them (gpu_ids, mesh), or another number'
        )
    for field in ('batch_size', 'eval_batch_size'):
        if config[field] % data:
            raise UserError(
                f'{field}={config[field]} cannot be shared evenly by {data} devices on the data axis; '
                f'take {_numbers(divisors(config[field]))} of them (mesh) or another {field}'
            )
    return data, member


def spec_of(path: tuple, _: Any = None) -> P:
    """Returns where a leaf of the training state lies: members on the member axis, the rest everywhere."""
    keys = {getattr(k, 'key', getattr(k, 'name', None)) for k in path}
    return P('member') if 'members' in keys else P()


def specs(tree: Any) -> Any:
    """Returns `tree` with the PartitionSpec of each leaf."""
    return jax.tree_util.tree_map_with_path(spec_of, tree)


def shardings(mesh: Mesh, tree: Any) -> Any:
    """Returns `tree` with the NamedSharding of each leaf."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(tree))


def abstract(mesh: Mesh, tree: Any) -> Any:
    """Returns the shapes and dtypes of `tree` with the sharding of each leaf."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
        shardings(mesh, tree),
    )


def shared_axes(mesh: Mesh) -> tuple[str, ...]:
    """Returns the names of the axes that more than one device shares."""
    return tuple(name for name, size in mesh.shape.items() if size > 1)


def without_idle_axes(mesh: Mesh, tree: Any) -> Any:
    """Returns a tree of PartitionSpecs without the axes of one device.

    Under shard_map nothing varies over those then, so that no sum over them is put in: XLA on a CPU would
    copy every gradient for a sum of one term.
    """
    shared = shared_axes(mesh)
    return jax.tree.map(
        lambda spec: P(*(axis if axis in shared else None for axis in spec)),
        tree,
        is_leaf=lambda x: isinstance(x, P),
    )


def agree(*operands: jax.Array) -> list[jax.Array]:
    """Makes operands vary over each other's mesh axes under shard_map.

    The transpose sums over the added axes: the trunk's gradient over 'member', a kernel's over 'data'.
    """
    varying = [jax.typeof(operand).mat.varying for operand in operands]
    missing = [tuple(sorted(frozenset.union(*varying) - axes)) for axes in varying]
    return [jax.lax.pcast(o, axes, to='varying') for o, axes in zip(operands, missing, strict=True)]


def put(mesh: Mesh, spec: P, local: np.ndarray, rows: int) -> jax.Array:
    """Returns the global array of `rows` rows; this process holds `local` of it."""
    shape = (rows, *local.shape[1:])
    return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), local, shape)


def put_whole(mesh: Mesh, spec: P, whole: np.ndarray) -> jax.Array:
    """Returns the global array; every process holds all of it, `whole`."""
    return jax.make_array_from_callback(whole.shape, NamedSharding(mesh, spec), lambda index: whole[index])


def local_rows(mesh: Mesh, rows: int) -> slice:
    """Returns which rows of a batch this process must provide."""
    indices = NamedSharding(mesh, IMAGES).addressable_devices_indices_map((rows,)).values()
    spans = [index[0].indices(rows)[:2] for index in indices if index]
    return slice(min(s[0] for s in spans), max(s[1] for s in spans))


def divisors(n: int) -> list[int]:
    """Returns the divisors of n, ascending."""
    return [d for d in range(1, n + 1) if n % d == 0]


def _numbers(values: Any) -> str:
    return ','.join(str(v) for v in values)
