"""From a trained workdir to an index and a search, through the real entry point and in Python."""

import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from support.folders import close
from support.paths import ROOT
from support.runs import NoSignals
from support.tiny import tiny_config, tiny_dataset

from sreml_jax.embedder import Embedder
from sreml_jax.evaluate import evaluate
from sreml_jax.run import Run
from sreml_jax.runtime import progress
from sreml_jax.runtime.errors import UserError
from sreml_jax.search.approximate import Approximate
from sreml_jax.search.embed import embed, remove
from sreml_jax.search.exact import search
from sreml_jax.search.index import Index
from sreml_jax.train import train
from sreml_jax.training import checkpoint


@pytest.fixture(scope='module')
def workdir(tmp_path_factory) -> Path:
    """A run of two steps."""
    folder = tmp_path_factory.mktemp('runs') / 'tiny'
    train(tiny_config(num_epochs=1, batch_size=16), folder, tiny_dataset(), NoSignals())
    return folder


@pytest.fixture(scope='module')
def embedder(workdir) -> Embedder:
    """Of that run."""
    return Embedder(workdir)


def photograph(path: Path, seed: int) -> Path:
    """Writes a little picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def photographs(folder: Path, first: int, last: int) -> list[Path]:
    """Writes pictures of three classes; returns their paths in the order of the index."""
    paths = [photograph(folder / f'class{i % 3}' / f'{i:04}.png', i) for i in range(first, last)]
    return sorted(paths)


@functools.cache
def model(workdir: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The model of the newest checkpoint: normalized images -> logits."""
    checkpoints, newest = checkpoint.newest(workdir)
    run = Run.of(checkpoints.config(newest))
    variables = checkpoints.variables(newest, run.abstract_variables())
    return functools.partial(jax.jit(run.model.apply), variables)


def expected(workdir: Path, paths: list[Path]) -> np.ndarray:
    """The embeddings of 16 x 16 pictures: the model's logits, normalized here by numpy."""
    dataset = tiny_dataset()
    images = np.stack([np.asarray(Image.open(path)) for path in paths]) / 255
    images = ((images - dataset.mean) / dataset.std).astype(np.float32)
    batches = np.resize(images, (-(-len(paths) // 50), 50, 16, 16, 3))
    logits = np.concatenate([model(workdir)(batch) for batch in batches])[: len(paths)].astype(np.float64)
    unit = logits / np.linalg.norm(logits, axis=2, keepdims=True)
    return unit.reshape(len(paths), -1) / np.sqrt(logits.shape[1])


def paths_of(index: Index) -> list[str]:
    return [item.path for item in index.items(range(len(index)))]


def run(*arguments: str) -> subprocess.CompletedProcess:
    """Runs the program to its end."""
    command = [sys.executable, '-m', 'sreml_jax.main', *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


# The program, which commits after each batch and kills itself where the sixth would begin.
KILLED_IN_THE_SIXTH_BATCH = """
import itertools, os, signal
from sreml_jax import main
from sreml_jax.embedder import Embedder
from sreml_jax.search.index import writer

writer.COMMIT_SECONDS = -1
start, batches = Embedder.start, itertools.count(1)

def killed(self, images):
    if next(batches) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return start(self, images)

Embedder.start = killed
main.cli()
"""


def test_embed_killed_resumed_and_searched(workdir, tmp_path):
    paths = photographs(tmp_path / 'photos', 0, 160)
    (tmp_path / 'photos' / 'class1' / 'notes.jpg').write_text('no picture')
    out = tmp_path / 'index'
    arguments = ['--mode=embed', f'--workdir={workdir}', f'--images={tmp_path / "photos"}', f'--out={out}']
    program = [sys.executable, '-c', KILLED_IN_THE_SIXTH_BATCH, *arguments]
    killed = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (out / 'index.json').exists()

    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    # The fifth batch was computed, but not added, when the sixth began: four of 16 images count.
    assert f'160 images, {160 - 4 * 16} of them new, {4 * 16} known already' in done.stdout
    assert '1 unreadable images are left out' in done.stdout and 'notes.jpg: not an image' in done.stdout

    index = Index(out)
    want = expected(workdir, paths)
    assert paths_of(index) == [str(path) for path in paths]
    np.testing.assert_allclose(index.embeddings, want, atol=1e-5)
    items = index.items([0, 159])
    assert [item.label for item in items] == ['class0', 'class2']
    assert [(item.width, item.height) for item in items] == [(16, 16)] * 2
    assert items[0].sha256 == hashlib.sha256(paths[0].read_bytes()).hexdigest()
    about = json.loads((out / 'index.json').read_text())
    assert about['checkpoint']['step'] == 2 and about['checkpoint']['workdir'] == str(workdir)
    np.testing.assert_allclose(about['preprocessing']['mean'], tiny_dataset().mean)

    queries = [paths[5], photograph(tmp_path / 'query.png', 6000)]
    done = run(
        '--mode=search',
        f'--workdir={workdir}',
        f'--index={out}',
        f'--query={",".join(map(str, queries))}',
        '--top=4',
    )
    assert done.returncode == 0, done.stderr
    similarity = expected(workdir, queries) @ want.T
    similarity[0, 5] = -2  # the query itself is left out
    lines = iter(done.stdout.splitlines())
    for query, row in zip(queries, similarity, strict=True):
        assert next(lines) == str(query)
        for rank, i in enumerate(np.argsort(-row)[:4], 1):
            told = next(lines).split()
            assert told[0] == str(rank) and told[2:] == [paths[i].parent.name, str(paths[i])]
            assert abs(float(told[1]) - row[i]) < 1e-4
    sheet = Image.open(workdir / 'search.png').convert('RGB')
    tiles = np.asarray(Image.open(paths[5]).resize((128, 128), Image.Resampling.BICUBIC), int)
    pixels = np.asarray(sheet, int)
    places = [
        x
        for x in range(sheet.width - 127)
        if np.abs(pixels[44 + 5 : 44 + 5 + 128, x : x + 128] - tiles).max() <= 1
    ]
    assert len(places) == 1  # the query, not itself as what is most like it


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


def test_approximate_search_by_the_command_tells_its_recall(embedder, workdir, tmp_path):
    pytest.importorskip('faiss', reason='faiss is not installed')
    paths = photographs(tmp_path / 'photos', 0, 90)
    embed(embedder, str(tmp_path / 'photos'), tmp_path / 'index')
    made = Approximate(Index(tmp_path / 'index'))  # the command finds its file there
    arguments = [f'--workdir={workdir}', f'--index={tmp_path / "index"}', f'--query={paths[7]}', '--top=90']
    done = run('--mode=search', *arguments, '--approximate')
    assert done.returncode == 0, done.stderr
    first, _, *matches, _ = done.stdout.splitlines()
    assert first == (
        f'approximate: a query searches {made.probes} of 2 lists and finds {100 * made.recall:.1f}% of '
        'the 10 nearest that exact search finds'
    )
    assert {line.split()[3] for line in matches} == {str(path) for path in paths if path != paths[7]}


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
    done = run(
        '--mode=search',
        f'--workdir={other}',
        f'--index={tmp_path / "index"}',
        f'--query={next((tmp_path / "photos" / "class0").iterdir())}',
    )
    assert done.returncode == 2
    first, last = done.stderr.splitlines()  # what the mode runs on, and why it does not
    assert first.startswith('CPU (') and last.startswith('error: ')
    assert 'was made by another checkpoint' in last


@pytest.mark.parametrize('embedding', ['logits', 'pooled'])
def test_shrunk_embeddings_are_searched_without_flags(embedding, workdir, tmp_path):
    config = checkpoint.newest_config(workdir)
    config.update(embedding=embedding, embedding_dim=3)
    with pytest.raises(UserError, match=r'needs .*shrinking.*npz, which is not there; make it by'):
        Embedder(workdir, config)
    evaluate(config, workdir, tiny_dataset(), thorough=True)
    paths = photographs(tmp_path / 'photos', 0, 20)
    short = Embedder(workdir, config)
    embed(short, str(tmp_path / 'photos'), tmp_path / 'index', storage='int8')
    index = Index(tmp_path / 'index')
    assert index.embeddings.shape == (20, 3) and index.embeddings.dtype == np.int8
    expected = short.photographs(paths).clip(-127 * index.scale, 127 * index.scale)
    np.testing.assert_allclose(index.embeddings * index.scale, expected, atol=index.scale / 2)

    arguments = [f'--workdir={workdir}', f'--index={tmp_path / "index"}', f'--query={paths[7]}', '--top=1']
    done = run('--mode=search', *arguments)
    assert done.returncode == 0, done.stderr
    similarity = index.embeddings.astype(np.float32) @ short.photographs([paths[7]])[0]
    similarity[7] = -np.inf  # itself
    assert done.stdout.splitlines()[1].endswith(f'  {paths[np.argmax(similarity)]}')
    done = run('--mode=search', *arguments, '--config.embedding_dim=2')
    assert done.returncode == 2 and done.stderr.count('\n') == 2
    assert 'holds embeddings of 3 dimensions and this run makes 2; set --config.embedding_dim' in done.stderr
    other = 'pooled' if embedding == 'logits' else 'logits'
    done = run('--mode=search', *arguments, f'--config.embedding={other}')
    assert done.returncode == 2 and done.stderr.count('\n') == 1
    assert f'made of {embedding}' in done.stderr


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
    done = run(
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


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--mode=embed', '--workdir=w', '--out=y'], '--mode=embed needs --images, photographs'),
        (['--mode=remove', '--index=/nowhere', '--gone'], '/nowhere holds no index'),
        (
            ['--mode=remove', '--index=gs://bucket/x', '--gone'],
            '--index=gs://bucket/x is an address elsewhere',
        ),
    ],
)
def test_a_mistake_is_one_sentence_before_the_work(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == ''
    assert message in done.stderr and done.stderr.count('\n') == 1
