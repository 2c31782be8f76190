"""Checkpoints: other models, leftovers, a full disk, other meshes, package versions."""

import os
import platform
import subprocess
import sys

import flax
import jax
import jaxlib
import numpy as np
import optax
import orbax.checkpoint
import pytest
from support.checkpoints import (
    PROGRESS,
    TABLE,
    abstract,
    mesh_of,
    read_all,
    remove,
    saved,
    state_at,
    tree,
    truncate,
)
from support.paths import ROOT, TESTS
from support.tiny import tiny_config, tiny_dataset

import sreml_jax
from sreml_jax import resume
from sreml_jax.run import Run
from sreml_jax.runtime import versions
from sreml_jax.runtime.errors import UserError
from sreml_jax.training import saved_config
from sreml_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures('few_blocks')


def test_where_none_is_whole_a_sentence_says_so_and_nothing_is_moved(tmp_path):
    saved(tmp_path, 3, 8)
    truncate(tmp_path / 'checkpoints' / '3' / 'config' / 'metadata')
    truncate(tmp_path / 'checkpoints' / '8' / 'state' / 'manifest.ocdbt')
    before = tree(tmp_path)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(UserError, match=r'no checkpoint in .* can be read \(step 8: state.*, step 3: config'):
        checkpoints.newest_whole(read_all(checkpoints))
    assert tree(tmp_path) == before


def test_the_checkpoint_of_another_model_is_refused_not_set_aside(tmp_path):
    saved(tmp_path, 3, 8)
    truncate(tmp_path / 'checkpoints' / '8' / 'state' / 'manifest.ocdbt')
    before = tree(tmp_path)
    checkpoints = Checkpoints(tmp_path)

    def read(step):
        saved_config.refuse_other_model(checkpoints.config(step), tiny_config(width=8), 'here')
        return checkpoints.state(step, abstract(state_at(step, mesh_of(1))))

    with pytest.raises(UserError, match='width is 4 there and 8 here'):
        checkpoints.newest_whole(read)
    assert tree(tmp_path) == before


def test_what_a_killed_save_leaves_is_no_checkpoint_and_is_cleaned_up(tmp_path):
    saved(tmp_path, 3)
    leftover = tmp_path / 'checkpoints' / '8.orbax-checkpoint-tmp' / 'state.orbax-checkpoint-tmp' / 'd'
    leftover.mkdir(parents=True)
    (leftover / 'part').write_text('half')
    assert Checkpoints(tmp_path, read_only=True).steps() == [3]
    assert leftover.exists()
    assert Checkpoints(tmp_path).steps() == [3]
    assert {p.name for p in (tmp_path / 'checkpoints').iterdir()} == {'3'}


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import pytest
from sreml_jax.training import checkpoint
from sreml_jax.runtime.errors import RunError
from sreml_jax.main import quiet_libraries
from support.checkpoints import *

quiet_libraries()
workdir, bytes_a_file = Path(sys.argv[1]), int(sys.argv[2])
folder = workdir / 'checkpoints'
first, later = saved(workdir, 1)[0], {n: state_at(n, mesh_of(1)) for n in (2, 3, 4)}
checkpoints = Checkpoints(workdir, kept=2)
save = lambda how, step: how(later[step], TABLE + step, tiny_config(num_epochs=step), PROGRESS)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

limit(bytes_a_file)
save(checkpoints.save, 2)
checkpoints.wait()
assert checkpoints.steps() == [1] and [p.name for p in folder.iterdir()] == ['1']
assert_whole(checkpoints.newest_whole(read_all(checkpoints))[1], first)

limit(resource.RLIM_INFINITY)
save(checkpoints.save, 3)
checkpoints.wait()
assert checkpoints.steps() == [1, 3]
assert_whole(checkpoints.newest_whole(read_all(checkpoints))[1], later[3])

limit(bytes_a_file)
checkpoint.LAST_TRIES = (0, 0.1, 0.1)
save(checkpoints.save, 4)
with pytest.raises(RunError, match='of step 4, could not be saved in .* goes on from step 3$'):
    save(checkpoints.save_last, 4)
assert checkpoints.steps() == [1, 3] and sorted(p.name for p in folder.iterdir()) == ['1', '3']

limit(resource.RLIM_INFINITY)
save(checkpoints.save_last, 4)
assert checkpoints.steps() == [3, 4]
assert_whole(checkpoints.newest_whole(read_all(checkpoints))[1], later[4])
checkpoints.close()
assert sorted(p.name for p in folder.iterdir()) == ['3', '4']
"""


@pytest.mark.parametrize('bytes_a_file', [50, 3000])
def test_a_full_disk_stops_no_run_and_spoils_nothing(bytes_a_file, tmp_path):
    places = os.pathsep.join([str(TESTS), str(ROOT)])
    done = subprocess.run(
        [sys.executable, '-c', FULL_DISK, tmp_path, str(bytes_a_file)],
        env=os.environ | {'PYTHONPATH': places},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    warnings = done.stderr.splitlines()
    assert sum('the checkpoint of step 2 could not be saved (' in line for line in warnings) == 1
    assert sum('the checkpoint of step 4 could not be saved (' in line for line in warnings) == 4
    assert len(warnings) == 5  # and no word of orbax's


@pytest.mark.parametrize(('before', 'after'), [(1, 4), (4, 1), (3, 2)])
def test_a_state_is_restored_onto_another_mesh_bit_for_bit(before, after, tmp_path):
    state, wanted = state_at(7, mesh_of(before)), abstract(state_at(0, mesh_of(after)))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, TABLE, tiny_config(), PROGRESS)
    checkpoints.wait()
    restored = checkpoints.state(7, wanted)
    checkpoints.close()
    expected = jax.device_get(state)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), expected)

    def laid_out(array, whole, spec):
        assert array.sharding.is_equivalent_to(spec.sharding, array.ndim)
        assert len(array.addressable_shards) == after
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(shard.data, whole[shard.index])

    jax.tree.map(laid_out, restored, expected, wanted)
    kernel = restored.params['members']['kernel']
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(12 // after, 3, 5)}
    assert restored.params['trunk']['kernel'].sharding.is_fully_replicated
    variables = checkpoints.variables(7, wanted.variables)
    jax.tree.map(np.testing.assert_array_equal, variables, expected.variables)


def test_package_versions_are_kept_and_a_change_is_reported_in_one_line(tmp_path, monkeypatch, caplog):
    config, dataset = tiny_config(), tiny_dataset()
    run = Run.of(config)
    checkpoints = Checkpoints(tmp_path)
    begun = resume.start(run, checkpoints, dataset, tmp_path)
    checkpoints.save(begun.state, begun.meta_table, config, PROGRESS)
    checkpoints.wait()
    assert checkpoints.versions(0) == {
        'sreml_jax': sreml_jax.__version__,
        'python': platform.python_version(),
        'jax': jax.__version__,
        'jaxlib': jaxlib.__version__,
        'flax': flax.__version__,
        'optax': optax.__version__,
        'orbax-checkpoint': orbax.checkpoint.__version__,
        'numpy': np.__version__,
    }

    def going_on():
        caplog.clear()
        with caplog.at_level('INFO', 'sreml_jax'):
            begun = resume.start(run, checkpoints, dataset, tmp_path)
        return begun, [record.message for record in caplog.records if 'packages' in record.message]

    assert going_on()[1] == []
    now = versions.installed() | {'jax': '99.1', 'python': '4.0'}
    monkeypatch.setattr(versions, 'installed', lambda: now)
    assert going_on()[1] == [
        'packages have changed since this run was last saved: '
        f'python {platform.python_version()} to 4.0, jax {jax.__version__} to 99.1'
    ]
    remove(tmp_path / 'checkpoints' / '0' / 'checksums')
    remove(tmp_path / 'checkpoints' / '0' / 'versions')  # saved before versions were
    remove(tmp_path / 'checkpoints' / '0' / 'place')  # also
    begun, said = going_on()
    assert said == [] and begun.skipped == 0 and begun.epochs.offset == 0
    checkpoints.close()
