"""Small training states, and checkpoints of them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from sreml_jax.run import Run
from sreml_jax.training.checkpoint import Checkpoints
from sreml_jax.training.step import TrainState
from support.tiny import tiny_config

EVERYWHERE = P()
TABLE = np.arange(24, dtype=np.int32).reshape(12, 2)
PROGRESS = {'steps_per_epoch': 4, 'offset': -2}


def state_at(step: int, mesh: jax.sharding.Mesh) -> TrainState:
    """A state of a few arrays, one of them by member, all of which depend on the step."""

    def draw(seed, *shape, spec=EVERYWHERE):
        array = np.random.default_rng((seed, step)).normal(size=shape).astype(np.float32)
        return jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))

    members = {'kernel': draw(0, 12, 3, 5, spec=P('member')), 'scale': draw(1, 12, spec=P('member'))}
    return TrainState(
        step=jax.device_put(jnp.int32(step), jax.sharding.NamedSharding(mesh, P())),
        params={'trunk': {'kernel': draw(2, 40, 50)}, 'members': members},
        batch_stats={'trunk': {'mean': draw(3, 7)}, 'members': {'mean': draw(4, 12, 2, spec=P('member'))}},
        opt_state=({'members': jax.tree.map(lambda x: x * 2, members)}, draw(5, 1)),
    )


def mesh_of(devices: int) -> jax.sharding.Mesh:
    return Run.of(tiny_config(ensemble_size=12, gpu_ids=tuple(range(devices)))).mesh


def abstract(state: TrainState) -> TrainState:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def saved(workdir: Path, *steps: int) -> list[TrainState]:
    """Saves the states of these steps, and returns them."""
    states = [state_at(step, mesh_of(1)) for step in steps]
    checkpoints = Checkpoints(workdir, kept=len(steps))
    for state in states:
        checkpoints.save(state, TABLE + int(state.step), tiny_config(num_epochs=int(state.step)), PROGRESS)
    checkpoints.close()
    return states
