"""Checkpoints: damaged ones, a full disk, other meshes, package versions."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import flax
import jax
import jaxlib
import numpy as np
import optax
import orbax.checkpoint
import pytest
from support.checkpoints import PROGRESS, TABLE, abstract, mesh_of, saved, state_at
from support.paths import ROOT, TESTS
from support.tiny import tiny_config, tiny_dataset

import sreml_jax
from sreml_jax import resume
from sreml_jax.run import Run
from sreml_jax.runtime import versions
from sreml_jax.runtime.errors import UserError
from sreml_jax.training import saved_config
from sreml_jax.training.checkpoint import Checkpoints
from sreml_jax.training.step import TrainState


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
    for path in sorted(folder.rglob('*'), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


DAMAGES = {
    'arrays': lambda folder: truncate(largest(folder / 'state' / 'ocdbt.process_0')),
    'manifest': lambda folder: truncate(folder / 'state' / 'manifest.ocdbt'),
    'meta classes': lambda folder: truncate(folder / 'meta_classes' / 'manifest.ocdbt'),
    'config': lambda folder: truncate(folder / 'config' / 'metadata'),
    'place': lambda folder: truncate(folder / 'place' / 'metadata'),
    'versions': lambda folder: truncate(folder / 'versions' / 'metadata'),
    'no state': lambda folder: remove(folder / 'state'),
    'nothing in it': lambda folder: [remove(p) if p.is_dir() else p.unlink() for p in folder.iterdir()],
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_is_used(damage, tmp_path, caplog):
    before, _ = saved(tmp_path, 3, 8)
    DAMAGES[damage](tmp_path / 'checkpoints' / '8')
    spoiled = tree(tmp_path / 'checkpoints' / '8')

    checkpoints = Checkpoints(tmp_path, read_only=True)  # as evaluation reads
    step, found = checkpoints.newest_whole(read_all(checkpoints))
    assert step == 3
    assert_whole(found, before)
    assert caplog.text.count('the checkpoint of step 8 cannot be read') == 1
    assert not (tmp_path / 'checkpoints_damaged').exists()

    caplog.clear()
    checkpoints = Checkpoints(tmp_path, kept=2)
    step, found = checkpoints.newest_whole(read_all(checkpoints))
    assert step == 3
    assert_whole(found, before)
    assert caplog.text.count('the checkpoint of step 8 cannot be read') == 1
    assert 'checkpoints_damaged' in caplog.text
    assert checkpoints.steps() == [3]
    assert tree(tmp_path / 'checkpoints_damaged' / '8') == spoiled

    # The run comes to that step again, and its checkpoint is damaged again.
    again = state_at(8, mesh_of(1))
    checkpoints.save(again, TABLE + 8, tiny_config(num_epochs=8), PROGRESS)
    checkpoints.wait()
    assert_whole(checkpoints.newest_whole(read_all(checkpoints))[1], again)
    truncate(tmp_path / 'checkpoints' / '8' / 'config' / 'metadata')
    assert checkpoints.newest_whole(read_all(checkpoints))[0] == 3
    assert {p.name for p in (tmp_path / 'checkpoints_damaged').iterdir()} == {'8', '8-2'}
    checkpoints.close()


@pytest.mark.parametrize('change', ['half', 'empty', 'gone'])
def test_whatever_file_is_damaged_no_other_numbers_are_read(change, tmp_path):
    (state,) = saved(tmp_path, 5)
    noticed = set()
    for path in tree(tmp_path / 'checkpoints' / '5'):
        file = tmp_path / 'checkpoints' / '5' / path
        if file.is_dir():
            continue
        content = file.read_bytes()
        file.unlink()
        if change != 'gone':
            file.write_bytes(content[: len(content) // 2] if change == 'half' else b'')
        checkpoints = Checkpoints(tmp_path, read_only=True)
        try:
            assert_whole(checkpoints.newest_whole(read_all(checkpoints))[1], state)
        except UserError:
            noticed.add(path.parts[0])
        file.write_bytes(content)
    assert noticed == {'state', 'meta_classes', 'config', 'place', 'versions', 'checksums'}


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
from test_checkpoint import *

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
    places = os.pathsep.join([str(TESTS), str(Path(__file__).parent), str(ROOT)])
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


def flip(path: Path, at: int) -> None:
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at // 8] ^= 1 << at % 8
    path.write_bytes(content)


def test_no_flipped_bit_in_the_arrays_lets_other_numbers_in(tmp_path, caplog):
    states = dict(zip((3, 8), saved(tmp_path, 3, 8), strict=True))
    folder = tmp_path / 'checkpoints' / '8' / 'state' / 'ocdbt.process_0' / 'd'
    path, random, used = largest(folder), np.random.default_rng(0), []
    content = path.read_bytes()
    for _ in range(12):
        flip(path, int(random.integers(8 * len(content))))
        checkpoints = Checkpoints(tmp_path, read_only=True)
        step, found = checkpoints.newest_whole(read_all(checkpoints))
        assert_whole(found, states[step])  # of 8 only if nothing is read from the place of the bit
        used.append(step)
        path.write_bytes(content)
    assert used.count(3) > 6
    assert 'not what was saved' in caplog.text


def test_an_evaluation_notices_a_flipped_bit_in_what_it_restores(tmp_path):
    saved(tmp_path, 3, 8)
    folder = tmp_path / 'checkpoints' / '8' / 'state' / 'ocdbt.process_0' / 'd'
    flip(largest(folder), 8 * (largest(folder).stat().st_size // 2))
    checkpoints, wanted = Checkpoints(tmp_path, read_only=True), abstract(state_at(0, mesh_of(1))).variables
    assert checkpoints.newest_whole(lambda step: checkpoints.variables(step, wanted))[0] == 3


@pytest.mark.parametrize('item', ['place', 'versions', 'checksums'])
def test_an_item_that_is_gone_is_damage(item, tmp_path):
    saved(tmp_path, 3, 8)
    remove(tmp_path / 'checkpoints' / '8' / item)
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert checkpoints.newest_whole(read_all(checkpoints))[0] == 3


def test_a_checkpoint_from_before_checksums_is_restored(tmp_path):
    (state,) = saved(tmp_path, 5)
    for item in ('checksums', 'versions', 'place'):
        remove(tmp_path / 'checkpoints' / '5' / item)
    checkpoints = Checkpoints(tmp_path, read_only=True)
    _, (config, progress, versions, _, restored) = checkpoints.newest_whole(read_all(checkpoints))
    assert (config.num_epochs, progress, versions) == (5, {}, {})
    jax.tree.map(np.testing.assert_array_equal, restored, state)


@pytest.mark.parametrize('item', ['config', 'place', 'versions'])
@pytest.mark.parametrize('content', ['[]', '7', 'null', '"x"', '{"batch_size": [], "offset": "x"}'])
@pytest.mark.parametrize('old', [False, True])
def test_json_of_another_type_is_damage(item, content, old, tmp_path):
    saved(tmp_path, 3, 8)
    (tmp_path / 'checkpoints' / '8' / item / 'metadata').write_text(content)
    if old:
        remove(tmp_path / 'checkpoints' / '8' / 'checksums')
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert checkpoints.newest_whole(read_all(checkpoints))[0] == 3 or (item, old) == ('versions', True)
