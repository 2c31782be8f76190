"""Damaged checkpoints: what was saved is read, or the checkpoint before, never anything else."""

import jax
import numpy as np
import pytest
from support.checkpoints import (
    PROGRESS,
    TABLE,
    abstract,
    assert_whole,
    flip,
    largest,
    mesh_of,
    read_all,
    remove,
    saved,
    state_at,
    tree,
    truncate,
)
from support.tiny import tiny_config

from sreml_jax.runtime.errors import UserError
from sreml_jax.training.checkpoint import Checkpoints

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
def test_json_of_another_type_is_damage(item, content, old, tmp_path, caplog):
    saved(tmp_path, 3, 8)
    (tmp_path / 'checkpoints' / '8' / item / 'metadata').write_text(content)
    if old:  # from before checksums
        for gone in {'checksums', 'versions'} - {item}:
            remove(tmp_path / 'checkpoints' / '8' / gone)
    checkpoints = Checkpoints(tmp_path, read_only=True)
    used = checkpoints.newest_whole(read_all(checkpoints))[0]
    if (item, old, content[0]) == ('versions', True, '{'):
        assert used == 8  # any names are those of packages
    else:
        assert used == 3 and (f'{item}: ' in caplog.text or item == 'versions')


@pytest.mark.parametrize('content', ['{"steps_per_epoch": 0}', '{"classes": [1]}', '{"skipped": true}'])
def test_a_place_without_checksums_is_checked_field_by_field(content, tmp_path, caplog):
    saved(tmp_path, 3, 8)
    for gone in ('checksums', 'versions'):
        remove(tmp_path / 'checkpoints' / '8' / gone)
    (tmp_path / 'checkpoints' / '8' / 'place' / 'metadata').write_text(content)
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert checkpoints.newest_whole(read_all(checkpoints))[0] == 3 and 'place: its' in caplog.text
