"""Small training states, and checkpoints of them."""

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

import sreml_jax
from sreml_jax import resume
from sreml_jax.data.dataset import Dataset
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
    """Puts checkpoints of the states of these steps into the workdir, and returns the states."""
    folder, states = _saved_once(steps)
    shutil.copytree(folder, workdir, dirs_exist_ok=True)
    return states


@functools.cache
def _saved_once(steps: tuple[int, ...]) -> tuple[Path, list[TrainState]]:
    folder = Path(tempfile.mkdtemp(prefix='sreml-test-'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    states = [state_at(step, mesh_of(1)) for step in steps]
    checkpoints = Checkpoints(folder, kept=len(steps))
    for state in states:
        checkpoints.save(state, TABLE + int(state.step), tiny_config(num_epochs=int(state.step)), PROGRESS)
    checkpoints.close()
    return folder, states


def read_all(checkpoints: Checkpoints):
    """What training reads of a checkpoint, in its order."""

    def read(step):
        config, progress = checkpoints.config(step), checkpoints.progress(step)
        versions = checkpoints.versions(step)
        return config, progress, versions, checkpoints.meta_table(step), checkpoints.state(step, like(step))

    def like(step):
        return abstract(state_at(step, mesh_of(1)))

    return read


def assert_whole(found, state: TrainState) -> None:
    config, progress, versions, table, restored = found
    step = int(state.step)
    assert config == tiny_config(num_epochs=step)
    assert progress == PROGRESS
    assert versions['sreml_jax'] == sreml_jax.__version__
    np.testing.assert_array_equal(table, TABLE + step)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def largest(folder: Path) -> Path:
    return max((p for p in folder.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)


def tree(folder: Path) -> list[Path]:
    return sorted(p.relative_to(folder) for p in folder.rglob('*'))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def flip(path: Path, at: int) -> None:
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at // 8] ^= 1 << at % 8
    path.write_bytes(content)


def untrained(workdir: Path, config: ConfigDict, dataset: Dataset) -> None:
    """Saves the state that a run begins with, as its only checkpoint."""
    checkpoints = Checkpoints(workdir)
    start = resume.start(Run.of(config), checkpoints, dataset, workdir)
    checkpoints.save_last(start.state, *start.saved_with(dataset, 0))
    checkpoints.close()
