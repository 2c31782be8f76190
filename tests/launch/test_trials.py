"""`python launch/bench trials`: what a recipe means, which classes are searched, and what is kept."""

import json
import os
import subprocess
import sys

import candidates
import jax
import numpy as np
import pytest
import trials
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from support.paths import ROOT

from sreml_jax.data import dataset as datasets
from sreml_jax.data.in_memory import ArrayDataset
from sreml_jax.model import ensemble


def test_a_recipe_is_a_base_with_fields_and_candidates():
    fields, chosen = trials.parts_of('cub_plus + balanced + meta_class_size=40 + schedule=cosine')
    assert fields == trials.BASES['cub_plus'] | {'meta_class_size': 40, 'schedule': 'cosine'}
    assert chosen == ['balanced']
    assert trials.BASES['cub_plus'].keys() == {'pool', 'label_smoothing', 'embedding'}
    with pytest.raises(SystemExit, match='error: balance is no candidate; known are '):
        trials.parts_of('seed + balance')
    with pytest.raises(SystemExit, match='error: sead is no base of a recipe; known are seed, cub_plus'):
        trials.parts_of('sead')


def test_the_held_out_classes_are_every_fifth_and_the_others_are_trained_on():
    images = {'train': np.arange(22)[:, None], 'test': -np.arange(4)[:, None]}
    labels = {'train': np.repeat(np.arange(11), 2), 'test': np.array([11, 11, 12, 12])}
    found, of = trials.split(images, labels, test=False)
    assert_array_equal(of['test'], [2, 2, 7, 7])
    assert_array_equal(found['test'][:, 0], [4, 5, 14, 15])
    assert sorted(found['train'][:, 0]) == sorted(set(range(22)) - {4, 5, 14, 15})
    assert trials.split(images, labels, test=True) == (images, labels)


def test_larger_images_are_trained_on_and_not_searched():
    small, labels = np.arange(10), {'train': np.arange(10), 'test': np.arange(2)}
    images = {'train': small, 'test': -small[:2], 'larger': 100 + small}
    found, _ = trials.split(images, labels, False, 'larger')
    assert_array_equal(found['train'], [100, 101, 103, 104, 105, 106, 108, 109])
    assert_array_equal(found['test'], [2, 7])
    found, _ = trials.split(images, labels, True, 'larger')
    assert_array_equal(found['train'], images['larger'])
    assert_array_equal(found['test'], images['test'])


def test_the_table_has_means_and_deviations_over_seeds():
    kept = [
        {'recipe': 'seed', 'test': False, 'size': 64, 'members': 2, 'epochs': 4, 'seed': seed, 'MAP@R': 0.25}
        | {'Recall@1': one, 'Recall@2': 0.8, 'Recall@4': 0.9, 'Recall@8': 1.0, 'core seconds': 100 + seed}
        for seed, one in enumerate((0.70, 0.74, 0.72))
    ]
    [line] = trials.table(kept).splitlines()[2:]
    assert (
        line == '| seed | 2 x 4, 64 px | 70.0, 74.0, 72.0 | 72.0 (2.0) | 80.0 | 90.0 | 100.0 | 25.0 | 101 |'
    )
    # Another width is no other seed.
    assert len(trials.table([*kept, kept[0] | {'width': 16}]).splitlines()) == 4


@pytest.fixture
def pictures():
    """Ten pictures of each of three classes, random, 8x8."""
    random = np.random.default_rng(0)
    images = {s: random.integers(0, 255, (30, 8, 8, 3), dtype=np.uint8) for s in ('train', 'test')}
    labels = {s: np.repeat(np.arange(3), 10) for s in images}
    return ArrayDataset('pictures', images, labels)


def test_balanced_batches_have_three_images_of_each_class():
    labels = np.repeat(np.arange(10), 10)
    with candidates.CANDIDATES['balanced']():
        order, flip = datasets.epoch_order(0, 0, labels)
    assert sorted(order) == list(range(100)) and flip.shape == (100,)
    runs = np.split(labels[order], 1 + np.flatnonzero(np.diff(labels[order])))
    lengths = [len(run) for run in runs]
    # Of ten images, three groups of three and one that is left; neighbors are seldom of one class.
    assert lengths.count(3) > 20 and lengths.count(1) > 5


def test_crops_of_larger_images_have_the_size_of_those_searched(pictures):
    random = np.random.default_rng(1)
    images = {
        'train': random.integers(0, 255, (5, 20, 20, 3), np.uint8),
        'test': np.zeros((2, 8, 8, 3), np.uint8),
    }
    larger = ArrayDataset('larger', images, {'train': np.arange(5), 'test': np.arange(2)})
    with candidates.CANDIDATES['crops']():
        assert next(larger.read('train', [np.arange(5)], 5)).shape == (5, 8, 8, 3)


def test_crops_are_of_training_images_alone(pictures):
    whole = next(pictures.read('train', [np.arange(5)], 5))
    with candidates.CANDIDATES['wide crops']():
        cropped = next(pictures.read('train', [np.arange(5)], 5))
        assert_array_equal(next(pictures.read('test', [np.arange(5)], 5)), pictures._images['test'][:5])
    assert cropped.shape == whole.shape and (cropped != whole).mean() > 0.5
    assert_array_equal(next(pictures.read('train', [np.arange(5)], 5)), whole)


def test_cosine_logits_are_cosines_over_the_temperature():
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    of = {'width': 4, 'stem': 'small', 'conv': 'grouped'}
    with candidates.CANDIDATES['cosine 0.05, layer norm']():
        logits = ensemble.Ensemble('resnet18', 2, 3, **of)
        variables = jax.jit(logits.init)(jax.random.key(0), images)
        found = logits.apply(variables, images)
        features = np.asarray(logits.clone(embedding='pooled').apply(variables, images))
    assert_allclose(features.mean(2), 0, atol=1e-5)
    kernel = np.asarray(variables['params']['members']['fc']['kernel'])  # [members, features, meta classes]
    dots = np.einsum('bmc,mck->bmk', features, kernel)
    lengths = np.linalg.norm(features, axis=2)[..., None] * np.linalg.norm(kernel, axis=1)
    assert_allclose(found, dots / lengths / 0.05, rtol=1e-4, atol=1e-4)


def test_a_trial_that_is_kept_is_not_run_again(tmp_path):
    for label in range(20):
        folder = tmp_path / 'images' / f'{label:02}'
        folder.mkdir(parents=True)
        for i in range(3):
            color = (12 * label, 255 - 12 * label, 80 * i)
            Image.new('RGB', (16, 16), color).save(folder / f'{i}.png')
    kept = tmp_path / 'trials.json'
    small = ['--size=16', '--width=4', '--stem=small', '--members=1', '--epochs=1', '--batch=6', '--jobs=1']
    command = [sys.executable, str(ROOT / 'launch' / 'bench'), 'trials', f'--images={tmp_path / "images"}']
    command += [f'--json={kept}', *small]
    environment = os.environ | {'XLA_FLAGS': os.environ['XLA_FLAGS'].replace('count=8', 'count=1')}

    def run(*more):
        done = subprocess.run([*command, *more], env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    lines = run('--recipes=seed + meta_class_size=4')
    assert lines[-1].startswith('| seed + meta_class_size=4 | 1 x 1, 16 px | ')
    before = kept.read_bytes()
    [found] = json.loads(before)
    assert (found['seed'], found['members'], found['epochs'], found['test']) == (0, 1, 1, False)
    assert 0 <= found['Recall@1'] <= found['Recall@8'] <= 1 and found['core seconds'] > 0
    assert run('--recipes=seed + meta_class_size=4')[-1] == lines[-1]
    assert kept.read_bytes() == before
