"""A run published to a hub on this machine and used from there: the same weights, index and results."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file
from support import forked
from support.hub import hub
from support.looking import begun, files

from sreml_jax import share
from sreml_jax.embedder import Embedder
from sreml_jax.evaluation import model_card
from sreml_jax.evaluation.result import Result, write_results
from sreml_jax.retrieval import pca, threshold_file
from sreml_jax.retrieval.thresholds import Rates, Thresholds
from sreml_jax.runtime.errors import UserError
from sreml_jax.search.embed import embed
from sreml_jax.search.index import Index
from sreml_jax.training import checkpoint

REPOSITORY = 'me/birds'


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Path:
    """A run that has only begun, with results of its step."""
    folder = begun(tmp_path_factory.mktemp('share') / 'run')
    (folder / 'results.json').unlink()
    recall = {1: 0.5, 2: 0.625}
    found = Result(
        'my_*birds*', 'uncropped', 'resnet18 x 2', 'self-retrieval', 42, 42, 8, 1, recall, ('a note',)
    )
    equal = {'threshold': 0.7, 'false_accepts': 0.25, 'false_rejects': 0.25, 'right': 0.9}
    more = {'step': 0, 'map_at_r': 0.375, 'raw_pixels_recall': {'1': 0.125}, 'thresholds': {'equal': equal}}
    write_results(folder / 'results.json', found, **more)
    embedder = Embedder(folder)
    made = Thresholds(Rates(**equal), [], 42, 42, 8)
    threshold_file.save(folder, embedder.fingerprint, 'logits', embedder.dimensions, made)
    reduces = pca.fit(np.random.default_rng(0).normal(size=(9, embedder.dimensions)).astype(np.float32), 3)
    pca.save(folder, 'logits', reduces, embedder.fingerprint, mirrored=True)
    return folder


@pytest.fixture(scope='module')
def published(run, tmp_path_factory) -> Path:
    """What is uploaded of it."""
    folder = tmp_path_factory.mktemp('published')
    share.write(Embedder(run, reduce=False), folder, REPOSITORY)
    return folder


def test_published_and_used_from_the_hub_and_its_cache(run, tmp_path, monkeypatch):
    files(tmp_path / 'photos')
    embed(Embedder(run), str(tmp_path / 'photos'), tmp_path / 'index')  # by the run itself
    query = next((tmp_path / 'photos').rglob('*.png'))
    for name in [name for name in os.environ if name.startswith('HF_')]:
        monkeypatch.delenv(name)
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('HF_TOKEN', 'secret')
    monkeypatch.setenv('HF_HUB_DISABLE_PROGRESS_BARS', '1')
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    search = [
        '--mode=search',
        '--workdir=hf://me/birds',
        '--index=index',
        f'--query={query}',
        '--format=json',
    ]
    with hub() as server:
        monkeypatch.setenv('HF_ENDPOINT', server.address)
        done = forked.run(
            tmp_path,
            [
                {'argv': ['--mode=publish', f'--workdir={run}', f'--repo={REPOSITORY}']},
                {'argv': search},
                {'argv': ['--mode=search', '--workdir=hf://me/none', '--index=index', f'--query={query}']},
            ],
        )
        stored, seen = server.files[REPOSITORY], server.seen
        server.refuse = 401
        refused = forked.run(tmp_path, [{'argv': ['--mode=publish', f'--workdir={run}', '--repo=me/x']}])[0]
    offline = forked.run(
        tmp_path, [{'argv': search}, {'argv': [*search[:1], '--workdir=hf://me/none', *search[2:]]}]
    )
    (code, output, error), found, missing = done
    assert (code, output) == (0, f'{server.address}/me/birds has step 0 of {run}\n'), error
    assert seen.count('POST /api/models/me/birds/commit/main') == 1
    assert set(stored) == {
        *('README.md', 'config.json', 'meta_classes.json', 'model.safetensors', 'results.json'),
        *('thresholds.json', 'members_curve.png', 'shrinking_mirrored.npz'),
    }
    assert found[0] == 0, found[2]
    (answer,) = json.loads(found[1])
    assert answer['threshold'] == 0.7 and len(answer['matches']) == 10
    assert offline[0][0] == 0 and offline[0][1] == found[1], offline[0][2]
    for (code, output, error), lines in ((missing, 1), (refused, 2), (offline[1], 1)):
        assert (code, output, error.count('\n')) == (2, '', lines), error
    assert 'cannot fetch me/none: ' in missing[2]
    assert 'cannot publish me/x: the hub refuses (status 401); log in with "hf auth login"' in refused[2]
    assert 'cannot fetch me/none (' in offline[1][2] and 'where the hub can be reached' in offline[1][2]
    workdir = tmp_path / 'runs' / 'hf' / 'me' / 'birds'
    assert (workdir / 'model.safetensors').is_symlink()
    assert {path.name for path in workdir.iterdir()} == {*stored, 'search.png'}


def test_the_weights_are_those_of_the_checkpoint(run, published):
    embedder = Embedder(run)
    want = jax.device_get(traverse_util.flatten_dict(embedder.variables, sep='/'))
    found = load_file(published / 'model.safetensors')
    assert found.keys() == want.keys()
    for name, array in want.items():
        np.testing.assert_array_equal(found[name], array)
    used = Embedder(published)
    assert used.fingerprint == embedder.fingerprint and used.step == embedder.step
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(used.images(images), embedder.images(images))
    checkpoints, _ = checkpoint.newest(run)
    others, _ = checkpoint.newest(published)
    np.testing.assert_array_equal(others.meta_table(0), checkpoints.meta_table(0))
    assert others.versions(0) == checkpoints.versions(0)


def test_places_of_this_machine_are_not_published(run, published):
    config = Embedder(run).run.config.copy_and_resolve_references()
    config.update(data_dir='/home/me/secret', prepared_dir='/home/me', weights='/home/me/w.npz')
    folder = published.parent / 'elsewhere'
    folder.mkdir(exist_ok=True)
    share.write(Embedder(run, config, reduce=False), folder, REPOSITORY)
    assert not any(b'/home/me' in path.read_bytes() for path in folder.iterdir())
    assert str(run).encode() not in b''.join(path.read_bytes() for path in folder.iterdir())
    saved = checkpoint.newest_config(folder)
    assert saved.weights == 'none' and saved.ensemble_size == 2 and saved.recalls == (1, 2, 4)


def test_the_page_says_what_was_measured_and_how(published):
    page = (published / 'README.md').read_text()
    assert page.startswith('---\nlibrary_name: sreml_jax\n') and '\n# birds\n' in page
    assert (
        '|  | resnet18 x 2 | raw pixels |\n|---|---|---|\n| R@1 | 50.00% | 12.50% |\n| R@2 | 62.50% | / |'
        in page
    )
    assert 'MAP@R 37.50%.' in page
    assert r'On my\_\*birds\*, uncropped, 8 test classes: each of 42 images queries the 41 others.' in page
    assert '(1 of them). a note.' in page
    assert 'A similarity below 0.700 means "unknown": at this threshold 25.00% of the queries' in page
    assert '--workdir=hf://me/birds' in page


def test_every_baseline_has_a_column(run):
    found = model_card.results(Embedder(run))
    found['baselines'] = {'raw pixels': {'1': 0.25}, 'untrained, pooled': {'1': 0.5, '2': 0.75}}
    page = model_card.write(Embedder(run), found, REPOSITORY)
    assert '|  | resnet18 x 2 | raw pixels | untrained, pooled |\n|---|---|---|---|\n' in page
    assert '| R@1 | 50.00% | 25.00% | 50.00% |\n| R@2 | 62.50% | / | 75.00% |\n' in page


def test_a_run_without_results_of_this_step_is_refused(run, tmp_path):
    folder = begun(tmp_path / 'run')  # whose results have no recall
    with pytest.raises(
        UserError, match=r'results\.json holds no results of step 0 as resnet18 x 2; make them'
    ):
        model_card.results(Embedder(folder))
    with pytest.raises(UserError, match='holds no results'):
        share.publish(Embedder(folder), REPOSITORY)


@pytest.mark.parametrize(
    'name', ['birds', 'me/birds/x', '../x', 'me/..', 'me/b c', 'me/', '/me', 'ä/b', 'me/b\n']
)
def test_what_is_no_name_of_a_repository(name):
    with pytest.raises(UserError, match=r'--repo=.* must be USER/NAME'):
        share.check_name(name, '--repo')


def damaged(published: Path, folder: Path, name: str, content: bytes) -> str:
    """The sentence about a published run with this file."""
    folder.mkdir()
    for path in published.iterdir():
        (folder / path.name).write_bytes(content if path.name == name else path.read_bytes())
    with pytest.raises(UserError) as error:
        Embedder(folder)
    return str(error.value)


def test_damage_is_one_sentence(published, tmp_path):
    weights, about = published / 'model.safetensors', json.loads((published / 'config.json').read_text())
    arrays = load_file(weights)
    first = next(iter(arrays))
    other, fewer = dict(arrays), dict(arrays)
    other[first] = arrays[first] + 1
    del fewer[first]
    cases = {
        'model.safetensors': [
            weights.read_bytes()[:-9],
            b'',
            (other, 'checksum'),
            (fewer, 'not those of the config'),
        ],
        'config.json': [
            b'{',
            b'[]',
            b'{}',
            (about | {'format': 2}, 'a newer one'),
            (about | {'config': []}, ''),
        ],
    }
    for name, contents in cases.items():
        for i, content in enumerate(contents):
            content, reason = content if isinstance(content, tuple) else (content, 'cannot be read')
            if name == 'config.json' and not isinstance(content, bytes):
                content = json.dumps(content).encode()
            elif not isinstance(content, bytes):
                save_file(content, tmp_path / 'x')
                content = (tmp_path / 'x').read_bytes()
            assert reason in damaged(published, tmp_path / f'{name}{i}', name, content)


def test_the_index_of_a_run_is_one_of_its_published_copy(run, published, tmp_path):
    files(tmp_path / 'photos')
    embed(Embedder(published), str(tmp_path / 'photos'), tmp_path / 'index')
    embed(Embedder(run), str(tmp_path / 'photos'), tmp_path / 'index')  # nothing is new, nothing refused
    assert len(Index(tmp_path / 'index')) == 42
