"""Whole runs on a tiny dataset: what they leave behind, and resuming exactly."""

import json
import re
import threading

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from support.tiny import tiny_config, tiny_dataset

from sreml_jax.embedder import Embedder
from sreml_jax.evaluate import embed_split, evaluate, raw_pixels
from sreml_jax.model.ensemble import normalize
from sreml_jax.run import Run
from sreml_jax.runtime.errors import RunError, UserError
from sreml_jax.train import train
from sreml_jax.training import checkpoint, meta_classes, step


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A run that was never interrupted: (config, workdir)."""
    config, workdir = tiny_config(), tmp_path_factory.mktemp('whole')
    train(config, workdir, tiny_dataset(), NoSignals())
    return config, workdir


def test_a_run_logs_every_step_and_learns(whole):
    _, workdir = whole
    logged = lines(workdir)
    assert [line['step'] for line in logged] == list(range(1, 13))  # 36 images in batches of 8, 3 epochs
    assert np.mean([line['loss'] for line in logged[-4:]]) < np.mean([line['loss'] for line in logged[:4]])
    # The step schedule's milestones: int(1.5) and int(2.1) epochs of 4 steps.
    rates = [line['learning_rate'] for line in logged]
    np.testing.assert_allclose(rates, np.repeat([1e-3, 1e-4, 1e-5], 4), rtol=1e-5)


def test_the_loss_is_of_smoothed_targets(tmp_path):
    config, dataset = tiny_config(label_smoothing=0.4), tiny_dataset()
    with pytest.raises(SystemExit):
        train(config, tmp_path, dataset, StopAfter(1))
    batch = next(dataset.train_batches(config.batch_size, 1, config.seed))
    run = Run.of(config)
    state = step.initial_state(run.model, run.adam(4), run.mesh, config.seed)
    images = normalize(batch['image'], dataset.mean, dataset.std)
    logits, _ = jax.jit(lambda *a: run.model.apply(*a, train=True, mutable=['batch_stats']))(
        state.variables, images
    )
    table = meta_classes.draw(8, config.ensemble_size, config.meta_class_size, config.seed)
    targets = 0.1 + 0.6 * np.eye(4)[table.T[batch['label']]]
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -(targets * np.log(probabilities)).sum(-1).mean()
    np.testing.assert_allclose(lines(tmp_path)[0]['loss'], expected, rtol=1e-4)


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

    # Two members of four meta classes: nothing is shorter than 64 numbers.
    whole_numbers, in_bytes = results['shrunk']
    assert whole_numbers == {'dimensions': 8, 'storage': 'float32', 'image_bytes': 32, 'recall': recall}
    rounded = np.rint(embeddings * 127 * np.sqrt(2))
    rounded = rounded @ rounded.T
    np.fill_diagonal(rounded, -np.inf)
    assert in_bytes['recall'] == pytest.approx((labels[rounded.argmax(1)] == labels).mean())
    assert (in_bytes['storage'], in_bytes['image_bytes']) == ('int8', 8)

    evaluate(config, workdir, dataset)  # as the same `train` again does
    assert json.loads((workdir / 'results.json').read_text()) == results


def test_embeddings_are_shrunk_as_the_table_says(whole, capsys):
    _, workdir = whole
    dataset, config = tiny_dataset(), checkpoint.newest_config(workdir)
    config.embedding_dim = 3
    evaluate(config, workdir, dataset, thorough=True)
    rows = json.loads((workdir / 'results.json').read_text())['shrunk']
    shrunk = {(row['dimensions'], row['storage']): row for row in rows}
    assert list(shrunk) == [(8, 'float32'), (8, 'int8'), (3, 'float32'), (3, 'int8')]
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
    assert shrunk[3, 'float32']['recall'] == pytest.approx((labels[similarity.argmax(1)] == labels).mean())

    config.embedding_dim = 36
    config.ensemble_size = 10
    with pytest.raises(UserError, match='must be less than the 36 training images'):
        evaluate(config, workdir, dataset, thorough=True)


@pytest.mark.parametrize('after', [2, 5])
def test_a_run_interrupted_and_resumed_ends_in_the_same_bits(whole, tmp_path, after):
    config, workdir = whole
    signals = NoSignals()
    with pytest.raises(SystemExit) as stop:
        train(config, tmp_path, Interrupted(tiny_dataset(), signals, after), signals)
    assert stop.value.code == 130
    assert 0 < checkpoint.newest(tmp_path)[1] < 12
    train(config, tmp_path, tiny_dataset(), NoSignals())
    assert lines(tmp_path) == lines(workdir)
    step, state = final_state(config, tmp_path)
    expected_step, expected = final_state(config, workdir)
    assert step == expected_step == 12
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_a_finished_run_says_so_and_trains_no_further(whole, caplog):
    config, workdir = whole
    before = lines(workdir)
    with caplog.at_level('INFO', 'sreml_jax'):
        train(config, workdir, tiny_dataset(), NoSignals())
    assert 'trained to the end' in caplog.text
    assert lines(workdir) == before


def test_more_epochs_go_on_with_the_same_meta_classes(tmp_path, caplog):
    config = tiny_config(num_epochs=1)
    train(config, tmp_path, tiny_dataset(), NoSignals())
    table = checkpoint.newest(tmp_path)[0].meta_table(4)
    with caplog.at_level('INFO', 'sreml_jax'):
        train(tiny_config(num_epochs=2, seed=9), tmp_path, tiny_dataset(), NoSignals())
    assert 'num_epochs was 1' in caplog.text
    checkpoints, newest = checkpoint.newest(tmp_path)
    assert newest == 8
    np.testing.assert_array_equal(checkpoints.meta_table(8), table)


@pytest.mark.parametrize(
    ('fields', 'dataset', 'message'),
    [
        (
            {'model_type': 'resnet34', 'width': 8},
            {},
            "model_type is 'resnet18' there and 'resnet34' here, width",
        ),
        ({'pool': 'gem'}, {}, "pool is 'average' there and 'gem' here"),
        ({}, {'classes': 9}, 'trained on 8 classes, but tiny now has 9'),
        ({'batch_size': 64}, {}, 'batch_size=64 is larger than the 36 training images'),
        ({'meta_class_size': 9}, {}, '8 training classes, fewer than config.meta_class_size=9'),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_run_alone(whole, fields, dataset, message):
    _, workdir = whole
    before = sorted(workdir.rglob('*'))
    with pytest.raises(UserError, match=message):
        train(tiny_config(**fields), workdir, tiny_dataset(**dataset), NoSignals())
    assert sorted(workdir.rglob('*')) == before


def test_other_classes_of_the_same_number_are_refused(whole):
    config, workdir = whole
    dataset, before = tiny_dataset(), sorted(workdir.rglob('*'))
    dataset.class_names['train'] = {i: f'bird {i}' if i > 2 else str(i) for i in reversed(range(8))}
    with pytest.raises(
        UserError, match="other classes than tiny now has: where it had '3' there is 'bird 3'"
    ):
        train(config, workdir, dataset, NoSignals())
    assert sorted(workdir.rglob('*')) == before


def test_a_workdir_that_can_not_be_made_is_refused(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot be made'):
        train(tiny_config(), tmp_path / 'file' / 'run', tiny_dataset(), NoSignals())


def test_an_evaluation_whose_data_stall_says_so():
    released, dataset = threading.Event(), tiny_dataset()
    dataset.images = lambda *_: iter(lambda: released.wait(30), True)
    run = Run.of(tiny_config(stall_minutes=0.2 / 60))
    try:
        with pytest.raises(RunError, match='no batch for 0'):
            embed_split(run, {}, dataset, 'test')
        with pytest.raises(RunError, match='no batch for 0'):
            raw_pixels(run, dataset, 'test')
    finally:
        released.set()


def test_evaluating_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match='holds no checkpoint'):
        evaluate(tiny_config(), tmp_path, tiny_dataset())
    assert not list(tmp_path.iterdir())
