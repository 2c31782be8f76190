"""The exported embedding, run back from its file by a process that has JAX but not this program."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from support.paths import ROOT
from support.runs import adam_of
from support.tiny import tiny_config

from sreml_jax.embedder import Embedder
from sreml_jax.export import export, function
from sreml_jax.retrieval import pca
from sreml_jax.run import Run, fingerprint
from sreml_jax.runtime.errors import UserError
from sreml_jax.training import saved_config, step
from sreml_jax.training.checkpoint import Checkpoints, newest_config

ELSEWHERE = """
import sys
import jax.export
import numpy as np

exported = jax.export.deserialize(open('exported', 'rb').read())
weights = jax.device_put(dict(np.load('exported.npz')))
assert set(exported.platforms) == {'cpu', 'cuda'}
images = np.load('images.npy')
np.savez('embeddings.npz', whole=exported.call(weights, images), one=exported.call(weights, images[:1]))
mine = ('sreml_jax', 'flax', 'tensorflow', 'orbax', 'configs')
assert not [name for name in sys.modules if name.partition('.')[0] in mine]
"""


@pytest.fixture(scope='module')
def workdir(tmp_path_factory) -> Path:
    """The checkpoint of a run that has only begun."""
    folder = tmp_path_factory.mktemp('runs') / 'tiny'
    config = saved_config.with_normalization(tiny_config(), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    run, checkpoints = Run.of(config), Checkpoints(folder)
    table = np.zeros((config.ensemble_size, 8), np.int32)
    checkpoints.save_last(step.initial_state(run.model, adam_of(run, 1), run.mesh, seed=0), table, config, {})
    checkpoints.close()
    return folder


def test_run_back_without_this_program(workdir, tmp_path):
    arguments = [f'--workdir={workdir}', f'--out={tmp_path / "exported"}', '--config.member_conv=auto']
    done = subprocess.run(
        [sys.executable, '-m', 'sreml_jax.main', '--mode=export', *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert 'uint8 images [batch, 16, 16, 3] -> float32 embeddings [batch, 8]' in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {'exported', 'exported.npz'}

    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    np.save(tmp_path / 'images.npy', images)
    environment = {k: v for k, v in os.environ.items() if k not in ('XLA_FLAGS', 'PYTHONPATH')}
    command = [sys.executable, '-W', 'error', '-c', ELSEWHERE]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)

    found = np.load(tmp_path / 'embeddings.npz')
    live = Embedder(workdir).images(images)
    assert found['whole'].dtype == np.float32 and np.ptp(live, axis=0).max() > 1e-2
    np.testing.assert_allclose(found['whole'], live, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found['one'], live[:1], atol=1e-5, rtol=0)


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
def test_equals_the_live_one_that_chooses_its_convolutions(platform, workdir, tmp_path, monkeypatch):
    config = newest_config(workdir)
    config.member_conv = 'auto'
    embedder = Embedder(workdir, config)
    with monkeypatch.context() as patch:
        patch.setattr(jax, 'default_backend', lambda: platform)  # where the file is made
        export(embedder, tmp_path / 'exported')
    exported = jax.export.deserialize((tmp_path / 'exported').read_bytes())
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    found = exported.call(dict(np.load(tmp_path / 'exported.npz')), images)
    live = embedder.images(images)
    assert np.ptp(live, axis=0).max() > 1e-2
    np.testing.assert_allclose(found, live, atol=1e-5, rtol=0)


def test_reduced_like_the_live_one(workdir):
    training = np.random.default_rng(1).normal(size=(30, 8)).astype(np.float32)
    identity = fingerprint(Embedder(workdir).variables)
    pca.save(workdir, 'logits', pca.fit(training, 5), identity)
    config = newest_config(workdir)
    config.embedding_dim = 3
    embedder = Embedder(workdir, config)
    weights = traverse_util.flatten_dict(embedder.variables, sep='/')
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    found = jax.jit(function(embedder))(weights, images)
    assert found.shape == (5, 3)
    np.testing.assert_allclose(found, embedder.images(images), atol=1e-5, rtol=0)


def test_an_out_that_cannot_be_written_is_refused_and_leaves_nothing(workdir, tmp_path):
    (tmp_path / 'taken').mkdir()
    for out in (tmp_path / 'nowhere' / 'exported', tmp_path / 'taken'):
        with pytest.raises(UserError, match=f'{out.name} cannot be written'):
            export(Embedder(workdir), out)
    assert [path.name for path in tmp_path.iterdir()] == ['taken']
