"""The printed tables, and results.json read back."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from sreml_jax.evaluation.result import Result, dimensions_table, members_table, recall_table, write_results
from sreml_jax.retrieval.members_curve import Point
from sreml_jax.retrieval.pca import Reduced
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.runtime.errors import RunError

LABELS = np.array([3, 3, 4, 4, 9])


def result(**different):
    given = {
        'dataset': 'cub',
        'crop': 'uncropped',
        'embedding': 'resnet18 x 48',
        'protocol': Protocol(LABELS, LABELS, True),
    }
    return Result.of(np.array([0, 2, 1, 0, -1]), (1, 2, 1000), **(given | different))


def test_table():
    raw = Result.of(
        np.array([3, 3, 3, 0, -1]),
        (1, 2),
        dataset='cub',
        crop='cropped',
        embedding='raw pixels',
        protocol=Protocol(np.arange(5), np.arange(5), True),
    )
    lines = recall_table(result(notes=['12 images missing']), raw).splitlines()
    assert lines == [
        'cub, uncropped, self-retrieval: each of 5 images against the 4 others; 3 classes',
        'queries without a match, counted as misses: 1',
        'note: 12 images missing',
        'cub, cropped, self-retrieval: each of 5 images against the 4 others; 5 classes',
        '',
        'Dataset             cub  cub (Crop)',
        'Backbone  resnet18 x 48  raw pixels',
        '-' * 35,
        'R@1              40.00%      20.00%',
        'R@2              60.00%      20.00%',
        'R@1000           80.00%           /',
    ]


def test_heading_of_query_and_gallery():
    isc = result(dataset='isc', protocol=Protocol(LABELS, np.arange(12_612), False))
    assert (
        isc.heading[0]
        == 'isc, uncropped, query/gallery: 5 queries against a gallery of 12,612 images; 3 classes'
    )


def test_results_json(tmp_path):
    write_results(tmp_path / 'results.json', result(notes=['one']), step=7, members=48)
    assert json.loads((tmp_path / 'results.json').read_text()) == {
        'recall': {'1': 0.4, '2': 0.6, '1000': 0.8},
        'dataset': 'cub',
        'crop': 'uncropped',
        'embedding': 'resnet18 x 48',
        'protocol': 'self-retrieval',
        'queries': 5,
        'gallery': 5,
        'classes': 3,
        'unmatched': 1,
        'notes': ['one'],
        'step': 7,
        'members': 48,
    }
    assert [p.name for p in tmp_path.iterdir()] == ['results.json']


@pytest.mark.parametrize(
    ('then', 'kept'),
    [
        ({}, True),
        ({'recall': {1: 0.4, 8: 0.75}}, True),  # other Ks
        ({'step': 8}, False),
        ({'crop': 'cropped'}, False),
        ({'recall': {1: 0.25}}, False),  # trained again
    ],
)
def test_entries_of_a_thorough_evaluation_stay_with_their_checkpoint(then, kept, tmp_path):
    path = tmp_path / 'results.json'
    first, curve = result(notes=['one']), [{'members': 1, 'mean': 0.25}]
    write_results(path, first, step=7, map_at_r=0.5, members_curve=curve)
    fields = {field: value for field, value in then.items() if field != 'step'}
    step = then.get('step', 7)
    write_results(path, dataclasses.replace(first, **fields), step=step)
    written = json.loads(path.read_text())
    assert written['step'] == step
    assert (written.get('map_at_r'), written.get('members_curve')) == ((0.5, curve) if kept else (None, None))


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs /dev/full')
def test_a_full_disk_is_reported_and_leaves_the_old_file(tmp_path):
    path = tmp_path / 'results.json'
    path.write_text('{}')
    (tmp_path / 'results.json.tmp').symlink_to('/dev/full')
    with pytest.raises(RunError, match=r'results\.json cannot be written \(No space left on device\); make'):
        write_results(path, result())
    assert path.read_text() == '{}'


def test_an_entry_that_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / 'results.json'
    path.write_text('{}')
    with pytest.raises(TypeError):
        write_results(path, result(), weights=np.zeros(3))
    assert path.read_text() == '{}'


def test_members_table():
    curve = [Point(1, 10, 0.5, 0.0123), Point(2, 10, 0.625, 0.01), Point(3, 1, 0.75, 0.0)]
    assert members_table(curve).splitlines() == [
        '',
        'Members  Recall@1  Deviation  Random subsets',
        '      1    50.00%       1.23              10',
        '      2    62.50%       1.00              10',
        '      3    75.00%          /               1',
        'from 1 member to 3: +25.00 points',
    ]


def test_dimensions_table():
    rows = [Reduced(2304, 'float32', 9216, 0.5), Reduced(64, 'int8', 64, 0.4375)]
    assert dimensions_table(rows).splitlines() == [
        '',
        'Dimensions  Stored as  Bytes an image  Recall@1',
        '     2,304    float32           9,216    50.00%',
        '        64       int8              64    43.75%',
        'fewer dimensions: --config.embedding_dim=N; fewer bytes: --storage',
    ]
