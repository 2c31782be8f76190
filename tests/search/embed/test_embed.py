"""Photographs into an index, in Python."""

import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from support.folders import close
from support.photographs import expected, paths_of, photograph, photographs
from support.runs import NoSignals, program
from support.tiny import tiny_config, tiny_dataset

from sreml_jax.embedder import Embedder
from sreml_jax.runtime import progress
from sreml_jax.runtime.errors import UserError
from sreml_jax.search.embed import _is_gone, embed, remove
from sreml_jax.search.exact import search
from sreml_jax.search.index import Index
from sreml_jax.train import train
from sreml_jax.training import checkpoint


def test_only_what_is_new_is_embedded(workdir, embedder, tmp_path, capsys, caplog, monkeypatch):
    caplog.set_level('INFO', 'sreml_jax')
    folder, out = tmp_path / 'photos', tmp_path / 'index'
    paths = photographs(folder, 0, 20)
    embed(embedder, str(folder), out)
    began = []
    start = embedder.start
    monkeypatch.setattr(embedder, 'start', lambda images: began.append(len(images)) or start(images))
    more = photographs(folder, 20, 23)
    photograph(paths[4], 99)  # another picture under a name that is known
    capsys.readouterr()
    embed(embedder, str(folder), out)
    assert sum(began) == 4
    assert '23 images, 4 of them new, 19 known already' in capsys.readouterr().out
    order = paths_of(Index(out))
    assert order[:19] == [str(path) for path in paths if path != paths[4]]
    assert set(order[19:]) == {str(path) for path in [paths[4], *more]}
    np.testing.assert_allclose(Index(out).embeddings, expected(workdir, order), atol=1e-5)

    paths[0].unlink()
    embed(embedder, str(folder / 'class1' / '*.png'), out)  # removes nothing
    assert paths_of(Index(out)) == order
    remove(out, None, gone=True)
    assert caplog.messages == [f'{out}; 23 images; taking out those whose files are gone']
    assert paths_of(Index(out)) == order[1:]
    remove(out, str(folder / 'class2'), gone=False)
    left = [path for path in order[1:] if 'class2' not in path]
    assert paths_of(Index(out)) == left
    np.testing.assert_allclose(Index(out).embeddings, expected(workdir, left), atol=1e-5)
    with pytest.raises(UserError, match='name what to remove'):
        remove(out, None, gone=False)
    with pytest.raises(UserError, match=r'holds no image of --images=.*class7: nothing is removed'):
        remove(out, str(folder / 'class7'), gone=False)
    assert paths_of(Index(out)) == left and not (out / 'unfinished.sqlite').exists()
    remove(out, None, gone=True)  # that nothing is gone is no mistake


def test_search_in_python(embedder, workdir, tmp_path):
    paths = photographs(tmp_path / 'photos', 0, 30)
    embed(embedder, str(tmp_path / 'photos'), tmp_path / 'index', storage='int8')

    query = embedder.photographs([paths[7]])
    matches = search(query, Index(tmp_path / 'index'), top=3)[0]

    similarity = expected(workdir, [paths[7]]) @ expected(workdir, paths).T
    assert [m.item.path for m in matches] == [str(paths[i]) for i in np.argsort(-similarity[0])[:3]]
    np.testing.assert_allclose([m.similarity for m in matches], np.sort(similarity[0])[:-4:-1], atol=0.01)


def test_all_devices_of_a_mesh_embed(workdir, tmp_path):
    paths = photographs(tmp_path / 'photos', 0, 21)
    config = checkpoint.newest_config(workdir)
    config.gpu_ids, config.mesh = (0, 1, 2, 3), (2, 2)
    embed(Embedder(workdir, config), str(tmp_path / 'photos'), tmp_path / 'index')
    np.testing.assert_allclose(Index(tmp_path / 'index').embeddings, expected(workdir, paths), atol=1e-5)


def test_another_checkpoint_is_refused(embedder, workdir, tmp_path):
    photographs(tmp_path / 'photos', 0, 3)
    embed(embedder, str(tmp_path / 'photos'), tmp_path / 'index')
    other = tmp_path / 'other'  # the same run, trained on
    shutil.copytree(workdir, other)
    train(tiny_config(num_epochs=2, batch_size=16), other, tiny_dataset(), NoSignals())
    with pytest.raises(UserError, match='was made by another checkpoint: by step 2 of'):
        embed(Embedder(other), str(tmp_path / 'photos'), tmp_path / 'index')
    done = program(
        '--mode=search',
        f'--workdir={other}',
        f'--index={tmp_path / "index"}',
        f'--query={next((tmp_path / "photos" / "class0").iterdir())}',
    )
    assert done.returncode == 2
    first, last = done.stderr.splitlines()  # what the mode runs on, and why it does not
    assert first.startswith('CPU (') and last.startswith('error: ')
    assert 'was made by another checkpoint' in last


def test_nothing_to_embed(embedder, tmp_path):
    (tmp_path / 'photos').mkdir()
    with pytest.raises(UserError, match='there is no picture in'):
        embed(embedder, str(tmp_path / 'photos'), tmp_path / 'index')
    assert not (tmp_path / 'index').exists()
    (tmp_path / 'photos' / 'text.jpg').write_text('no picture')
    with pytest.raises(UserError, match=r'no file in .* is a picture: .*text.jpg: not an image'):
        embed(embedder, str(tmp_path / 'photos'), tmp_path / 'index')


def test_the_index_must_not_lie_among_the_images(workdir, embedder, tmp_path):
    photographs(tmp_path / 'photos', 0, 3)
    (tmp_path / 'link').symlink_to(tmp_path / 'photos')
    for out in ('photos', 'photos/index', 'photos/class1/deep/index', 'link/index'):
        with pytest.raises(UserError, match=r'--out=.* lies among --images=.*; take a folder outside'):
            embed(embedder, str(tmp_path / 'photos'), tmp_path / out)
    with pytest.raises(UserError, match='lies among'):
        embed(embedder, str(tmp_path / 'photos' / '**' / '*.png'), tmp_path / 'photos' / 'index')
    assert sorted(path.name for path in (tmp_path / 'photos').iterdir()) == ['class0', 'class1', 'class2']
    embed(embedder, str(tmp_path / 'photos' / 'class1' / '*.png'), tmp_path / 'photos' / 'index')
    done = program(
        '--mode=embed',
        f'--workdir={workdir}',
        f'--images={tmp_path / "photos"}',
        f'--out={tmp_path / "photos" / "index"}',
    )
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'lies among' in done.stderr


def test_at_most_twenty_unreadable_images_are_shown(embedder, tmp_path, capsys):
    photographs(tmp_path / 'photos', 0, 2)
    for i in range(25):
        (tmp_path / 'photos' / f'{i:02}.jpg').write_text('no picture')
    embed(embedder, str(tmp_path / 'photos'), tmp_path / 'index')
    told = capsys.readouterr().out
    assert '25 unreadable images are left out' in told and told.count('not an image') == 20
    assert 'and 5 more' in told
    assert len(Index(tmp_path / 'index').about['unreadable']) == 25


def test_a_name_that_is_not_utf_8_is_left_out_and_the_others_are_embedded(embedder, tmp_path, capsys):
    paths = photographs(tmp_path / 'photos', 0, 4)
    os.link(paths[0], os.fsencode(tmp_path / 'photos') + b'/caf\xe9.png')
    embed(embedder, str(tmp_path / 'photos'), tmp_path / 'index')
    index = Index(tmp_path / 'index')
    assert paths_of(index) == [str(path) for path in paths]
    assert list(index.about['unreadable']) == [f'{tmp_path}/photos/caf\\xe9.png']
    assert 'caf\\xe9.png: the name is not UTF-8; rename the file' in capsys.readouterr().out


def test_plain_lines_tell_the_progress_where_there_is_no_terminal(embedder, tmp_path, capsys, monkeypatch):
    photographs(tmp_path / 'photos', 0, 40)  # three batches
    (tmp_path / 'photos' / 'text.jpg').write_text('no picture')
    embed(embedder, str(tmp_path / 'photos' / 'class0'), tmp_path / 'index')
    capsys.readouterr()
    monkeypatch.setattr(progress, 'LINE_SECONDS', -1)  # a line whenever there is news
    embed(embedder, str(tmp_path / 'photos'), tmp_path / 'index')
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('embedding: ')]
    assert lines[0] == 'embedding: 1 of 41 images'
    assert lines[-2].startswith('embedding: 31 of 41 images')
    *_, rate, left = lines[-1].split('  ')
    assert lines[-1].startswith('embedding: 41 of 41 images  ') and left == '00:00 left'
    assert re.fullmatch(r'[\d.]+ images/s', rate)


def test_a_closed_folder_is_left_out_until_it_is_open(embedder, tmp_path, capsys):
    paths = photographs(tmp_path / 'photos', 0, 9)
    closed = tmp_path / 'photos' / 'class1'
    with pytest.MonkeyPatch.context() as patch:
        close(closed, patch)
        embed(embedder, str(tmp_path / 'photos'), tmp_path / 'index')
    assert f'1 unreadable images are left out: {closed}: Permission denied' in capsys.readouterr().out
    assert paths_of(Index(tmp_path / 'index')) == [str(path) for path in paths if path.parent != closed]
    embed(embedder, str(tmp_path / 'photos'), tmp_path / 'index')
    assert set(paths_of(Index(tmp_path / 'index'))) == set(map(str, paths))
    assert Index(tmp_path / 'index').about['unreadable'] == {}


def test_a_signal_saves_and_the_same_call_goes_on(embedder, tmp_path, monkeypatch):
    photographs(tmp_path / 'photos', 0, 100)
    signals = NoSignals()
    start = embedder.start

    def interrupted(images):
        signals.received = signal.SIGINT
        return start(images)

    monkeypatch.setattr(embedder, 'start', interrupted)
    with pytest.raises(SystemExit) as left:
        embed(embedder, str(tmp_path / 'photos'), tmp_path / 'index', signals=signals)
    assert left.value.code == 130
    assert (tmp_path / 'index' / 'unfinished.sqlite').exists()
    monkeypatch.setattr(embedder, 'start', start)
    embed(embedder, str(tmp_path / 'photos'), tmp_path / 'index')
    assert len(Index(tmp_path / 'index')) == 100


def test_an_index_whose_drive_is_away_is_not_emptied(embedder, tmp_path):
    folder, out = tmp_path / 'drive', tmp_path / 'index'
    photographs(folder, 0, 4)
    embed(embedder, str(folder), out)
    folder.rename(tmp_path / 'elsewhere')
    with pytest.raises(UserError, match=r'none of the 4 images of .*index is there: is their drive mounted'):
        remove(out, None, gone=True)
    assert len(Index(out)) == 4 and not (out / 'unfinished.sqlite').exists()
    remove(out, str(folder), gone=False)
    assert len(Index(out)) == 0
    remove(out, None, gone=True)  # nothing is left to be gone


def test_what_may_not_be_looked_at_is_not_gone(monkeypatch, tmp_path):
    def stat(path):
        raise PermissionError(13, 'Permission denied') if 'closed' in str(path) else FileNotFoundError

    monkeypatch.setattr(Path, 'stat', stat)
    assert _is_gone('/open/x.jpg') and not _is_gone('/closed/x.jpg')
