"""Evaluations of a tiny run: the table, results.json, and what a thorough one adds."""

import dataclasses
import json
import re
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from sklearn.decomposition import PCA
from support.runs import NoSignals, adam_of
from support.tiny import tiny_config, tiny_dataset

from sreml_jax import data
from sreml_jax.cli import modes
from sreml_jax.data.in_memory import ArrayDataset
from sreml_jax.embedder import Embedder
from sreml_jax.evaluate import evaluate
from sreml_jax.evaluation import analysis, baselines
from sreml_jax.evaluation.baselines import raw_pixels
from sreml_jax.model.ensemble import normalize
from sreml_jax.retrieval import pca, thresholds
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.run import Run
from sreml_jax.runtime.errors import RunError, UserError
from sreml_jax.search import verdict
from sreml_jax.train import train
from sreml_jax.training import checkpoint, saved_config, step

pytestmark = pytest.mark.usefixtures('few_blocks')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A run trained to its end: (config, workdir)."""
    config, workdir = tiny_config(), tmp_path_factory.mktemp('whole')
    train(config, workdir, tiny_dataset(), NoSignals())
    return config, workdir


def test_the_table_is_the_same_each_time(whole, capsys):
    config, workdir = whole
    first = evaluate(config, workdir, tiny_dataset())
    printed = capsys.readouterr().out
    assert evaluate(config, workdir, tiny_dataset()) == first
    assert capsys.readouterr().out == printed
    row = next(line.split() for line in printed.splitlines() if line.startswith('R@1 '))
    assert row[1] == f'{100 * first.recall[1]:.2f}%'
    stored = json.loads((workdir / 'results.json').read_text())
    assert stored['recall'] == {str(k): v for k, v in first.recall.items()}
    assert (workdir / 'retrievals.png').stat().st_size > 10_000


def test_a_thorough_evaluation(whole, capsys):
    config, workdir = whole
    dataset = tiny_dataset()
    recall = evaluate(config, workdir, dataset, thorough=True).recall[1]
    printed = capsys.readouterr().out
    results = json.loads((workdir / 'results.json').read_text())
    embeddings = Embedder(workdir).images(next(dataset.images('test', np.arange(42), 42)))
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -2)
    labels = dataset.labels['test']
    right = labels[np.argsort(-similarity, 1)] == labels[:, None]

    relevant = right.sum(1)  # the image itself comes last
    found = [row[: r - 1].mean() for row, r in zip(right, relevant, strict=True)]
    assert results['r_precision'] == pytest.approx(np.mean(found))
    assert f'MAP@R {100 * results["map_at_r"]:.2f}%, R-precision {100 * np.mean(found):.2f}%' in printed

    one, two = results['members_curve']
    assert (one['members'], one['subsets'], two['members'], two['subsets']) == (1, 2, 2, 1)
    assert two['mean'] == recall
    rise = f'from 1 member to 2: {100 * (recall - one["mean"]):+.2f} points'
    assert rise in printed
    with Image.open(workdir / 'members_curve.png') as picture:
        assert picture.size == (960, 600)

    # Two members of four meta classes: 8 dimensions, less than any reduced size.
    as_floats, as_bytes = results['shrunk']
    assert as_floats == {'dimensions': 8, 'storage': 'float32', 'image_bytes': 32, 'recall': recall}
    rounded = np.rint(embeddings * 127 * np.sqrt(2))
    rounded = rounded @ rounded.T
    np.fill_diagonal(rounded, -np.inf)
    assert as_bytes['recall'] == pytest.approx((labels[rounded.argmax(1)] == labels).mean())
    assert (as_bytes['storage'], as_bytes['image_bytes']) == ('int8', 8)

    evaluate(config, workdir, dataset)  # without `thorough`, as after each training
    assert json.loads((workdir / 'results.json').read_text()) == results


def test_reduced_embeddings_have_the_recall_of_the_table(whole, capsys):
    _, workdir = whole
    dataset, config = tiny_dataset(), checkpoint.newest_config(workdir)
    config.embedding_dim = 3
    evaluate(config, workdir, dataset, thorough=True)
    rows = json.loads((workdir / 'results.json').read_text())['shrunk']
    reduced = {(row['dimensions'], row['storage']): row for row in rows}
    assert list(reduced) == [(8, 'float32'), (8, 'int8'), (3, 'float32'), (3, 'int8')]
    assert re.search(r'\n +3 +int8 +3 +\d+\.\d\d%\n', capsys.readouterr().out)

    short, long = Embedder(workdir, config), Embedder(workdir)
    images = {
        split: next(dataset.images(split, np.arange(n), n)) for split, n in (('train', 36), ('test', 42))
    }
    pca = PCA(3, whiten=True).fit(long.images(images['train']).astype(float))
    expected = pca.transform(long.images(images['test']))
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = short.images(images['test'])
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-3)
    similarity = found @ found.T
    np.fill_diagonal(similarity, -2)
    labels = dataset.labels['test']
    assert reduced[3, 'float32']['recall'] == pytest.approx((labels[similarity.argmax(1)] == labels).mean())

    config.embedding_dim = 36
    config.ensemble_size = 10
    with pytest.raises(UserError, match='must be less than the 36 training images'):
        evaluate(config, workdir, dataset, thorough=True)


def test_the_report_repeats_the_numbers_of_eval(whole, monkeypatch, capsys):
    _, workdir = whole
    config = checkpoint.newest_config(workdir)
    config.embedding_dim = 3
    recall = evaluate(config, workdir, tiny_dataset(), thorough=True).recall
    monkeypatch.setattr(data, 'load', lambda _: tiny_dataset())
    modes.report(modes.Job(config, workdir, signals=None))
    page = (workdir / 'report.html').read_text()
    shown = re.findall(r'<dt>Recall@(\d+)</dt><dd>([\d.]+%)</dd>', page)
    assert shown == [(str(k), f'{100 * share:.2f}%') for k, share in recall.items()]


def first_match_is_right(embeddings, labels):
    """Recall@1, by brute force."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -2)
    return (labels[similarity.argmax(1)] == labels).mean()


def test_the_table_shows_what_the_model_is_to_beat(whole, capsys):
    config, workdir = whole
    dataset = tiny_dataset()
    images, labels = next(dataset.images('test', np.arange(42), 42)), dataset.labels['test']
    own = evaluate(config, workdir, dataset).recall[1]
    printed = capsys.readouterr().out.splitlines()
    head, row = (next(x for x in printed if x.startswith(start)) for start in ('Backbone', 'R@1 '))
    assert re.split('  +', head) == ['Backbone', 'resnet18 x 2', 'raw pixels', 'random resnet18, pooled']

    run = Run.of(saved_config.with_normalization(config, dataset.mean, dataset.std))
    state = step.initial_state(run.model, adam_of(run), run.mesh, config.seed)
    features = run.model.clone(embedding='pooled').apply(
        state.variables, normalize(images, dataset.mean, dataset.std)
    )
    pixels = first_match_is_right(images.reshape(42, -1).astype(float), labels)
    random = first_match_is_right(np.asarray(features)[:, 0], labels)
    assert [*map(float, re.findall(r'([\d.]+)%', row))] == pytest.approx(
        [100 * own, 100 * pixels, 100 * random], abs=0.01
    )
    stored = json.loads((workdir / 'results.json').read_text())['baselines']
    assert stored['raw pixels']['1'] == pytest.approx(pixels)
    assert stored['random resnet18, pooled']['1'] == pytest.approx(random)


def test_a_model_that_loses_is_told_in_the_last_line(whole, monkeypatch, capsys):
    config, workdir = whole
    better = {k: 1.0 for k in config.recalls}
    measure = baselines.measure
    monkeypatch.setattr(baselines, 'measure', lambda *a: [dataclasses.replace(measure(*a)[0], recall=better)])
    own = evaluate(config, workdir, tiny_dataset()).recall[1]
    assert capsys.readouterr().out.splitlines()[-1] == (
        f'the model loses: raw pixels finds 100.00% at K=1, the model {100 * own:.2f}%; try --mode=eval '
        '--config.embedding=pooled (the same run by its features), a new run from pretrained weights '
        '(--config.weights=imagenet), more --config.num_epochs'
    )
    better[1] = own / 2
    evaluate(config, workdir, tiny_dataset())
    assert capsys.readouterr().out.splitlines()[-1].startswith('Wrote ')


def test_large_images_are_reduced_for_the_baseline_of_raw_pixels():
    images = np.zeros((2, 96, 96, 3), np.uint8)
    images[0, :48], images[1, :, 48:] = 200, 100
    dataset = ArrayDataset('large', {'train': images, 'test': images}, {'train': [0, 1], 'test': [0, 1]})
    pixels = raw_pixels(Run.of(tiny_config()), dataset, 'test')
    assert pixels.shape == (2, 32 * 32 * 3)
    assert pixels[0] @ pixels[1] == pytest.approx(
        0.5, abs=0.02
    )  # half of each is lit, and half of that in both


def test_weights_that_are_gone_leave_the_other_baseline(whole, tmp_path, caplog):
    config, _ = whole
    config = config.copy_and_resolve_references()
    config.weights = str(tmp_path / 'gone.npz')
    run = Run.of(saved_config.with_normalization(config, (0.5,) * 3, (0.5,) * 3))
    assert [x.embedding for x in baselines.measure(run, tiny_dataset())] == ['raw pixels']
    assert 'the table lacks the untrained backbone: there is no file' in caplog.text


def test_raw_pixels_whose_data_stall_end_in_an_error():
    released, dataset = threading.Event(), tiny_dataset()
    dataset.images = lambda *_: iter(lambda: released.wait(30), True)
    run = Run.of(tiny_config(stall_minutes=0.2 / 60))
    try:
        with pytest.raises(RunError, match='no batch arrived for 0'):
            raw_pixels(run, dataset, 'test')
    finally:
        released.set()


def test_evaluating_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match='holds no checkpoint'):
        evaluate(tiny_config(), tmp_path, tiny_dataset())
    assert not list(tmp_path.iterdir())


def test_the_pca_of_a_checkpoint_stays_since_indexes_are_made_by_it(tmp_path):
    random = np.random.default_rng(0)
    first, later = (random.standard_normal((30, 8)).astype(np.float32) for _ in range(2))
    kind = {'embedding': 'pooled', 'mirrored': True}
    embedder = SimpleNamespace(
        workdir=tmp_path, fingerprint='f', old_fingerprint='o', run=SimpleNamespace(config=ConfigDict(kind))
    )
    made = analysis._projection(embedder, first, 4)
    pca.save(tmp_path, 'pooled', made, 'f', mirrored=True)
    assert analysis._projection(embedder, later, 4).digest(4) == made.digest(4)
    assert analysis._projection(embedder, later, 5).digest(4) != made.digest(4)  # more than it has
    embedder.fingerprint = 'of a later checkpoint'
    assert analysis._projection(embedder, later, 4).digest(4) != made.digest(4)


def test_queries_against_a_gallery(whole, tmp_path, capsys):
    config, workdir = whole
    run = tmp_path / 'run'
    shutil.copytree(workdir, run)
    tiny = tiny_dataset()
    parts = {
        'train': ('train', slice(None)),
        'query': ('test', slice(15)),
        'gallery': ('test', slice(15, 42)),
    }
    images = {split: tiny._images[of][rows] for split, (of, rows) in parts.items()}
    labels = {split: tiny.labels[of][rows] for split, (of, rows) in parts.items()}
    dataset = ArrayDataset('parted', images, labels, tiny.mean, tiny.std)
    config = saved_config.restore(config.to_dict())
    config.embedding_dim = 3
    evaluate(config, run, dataset, thorough=True)
    short = Embedder(run, config)
    query, gallery = (short.images(images[split]) for split in ('query', 'gallery'))
    first = labels['gallery'][(query @ gallery.T).argmax(1)]
    results = json.loads((run / 'results.json').read_text())
    (recall,) = (x['recall'] for x in results['shrunk'] if (x['dimensions'], x['storage']) == (3, 'float32'))
    assert recall == pytest.approx(np.mean(first == labels['query']))
    protocol = Protocol(labels['query'], labels['gallery'], False)
    at = thresholds.calibrate(thresholds.best(query, gallery, protocol), protocol).equal.threshold
    assert verdict.threshold_of(short) == pytest.approx(at, abs=1e-5)


def test_the_pca_of_many_images_is_fitted_on_a_sample(monkeypatch):
    monkeypatch.setattr(pca, 'IMAGES', 30)
    chosen = analysis.training_sample(tiny_config(), tiny_dataset())
    assert len(chosen) == 30 and (np.diff(chosen) > 0).all() and chosen[-1] < 36
