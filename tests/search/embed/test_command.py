"""From a trained workdir to an index and a search, through the real entry point."""

import hashlib
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.paths import ROOT
from support.photographs import expected, paths_of, photograph, photographs
from support.runs import program
from support.tiny import tiny_dataset

from sreml_jax.embedder import Embedder
from sreml_jax.evaluate import evaluate
from sreml_jax.runtime.errors import UserError
from sreml_jax.search.approximate import Approximate
from sreml_jax.search.embed import embed
from sreml_jax.search.index import Index
from sreml_jax.training import checkpoint

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
    killing = [sys.executable, '-c', KILLED_IN_THE_SIXTH_BATCH, *arguments]
    killed = subprocess.run(killing, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (out / 'index.json').exists()

    done = program(*arguments)
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
    done = program(
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


def test_approximate_search_by_the_command_tells_its_recall(embedder, workdir, tmp_path):
    pytest.importorskip('faiss', reason='faiss is not installed')
    paths = photographs(tmp_path / 'photos', 0, 90)
    embed(embedder, str(tmp_path / 'photos'), tmp_path / 'index')
    made = Approximate(Index(tmp_path / 'index'))  # the command finds its file there
    arguments = [f'--workdir={workdir}', f'--index={tmp_path / "index"}', f'--query={paths[7]}', '--top=90']
    done = program('--mode=search', *arguments, '--approximate')
    assert done.returncode == 0, done.stderr
    first, _, *matches, _ = done.stdout.splitlines()
    assert first == (
        f'approximate: a query searches {made.probes} of 2 lists and finds {100 * made.recall:.1f}% of '
        'the 10 nearest that exact search finds'
    )
    assert {line.split()[3] for line in matches} == {str(path) for path in paths if path != paths[7]}


def test_shrunk_embeddings_are_searched_without_flags(workdir, tmp_path):
    config = checkpoint.newest_config(workdir)
    config.update(embedding='pooled', embedding_dim=3)
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
    done = program('--mode=search', *arguments)
    assert done.returncode == 0, done.stderr
    similarity = index.embeddings.astype(np.float32) @ short.photographs([paths[7]])[0]
    similarity[7] = -np.inf  # itself
    assert done.stdout.splitlines()[1].endswith(f'  {paths[np.argmax(similarity)]}')
    done = program('--mode=search', *arguments, '--config.embedding_dim=2')
    assert done.returncode == 2 and done.stderr.count('\n') == 2
    assert 'holds embeddings of 3 dimensions and this run makes 2; set --config.embedding_dim' in done.stderr
    done = program('--mode=search', *arguments, '--config.embedding=logits')
    assert done.returncode == 2 and done.stderr.count('\n') == 1
    assert 'made of pooled' in done.stderr


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
    done = program(*arguments)
    assert done.returncode == 2 and done.stdout == ''
    assert message in done.stderr and done.stderr.count('\n') == 1
