"""Every benchmark runs on a CPU as it stands, on the smallest case, and keeps its figures."""

import argparse
import importlib
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from support.paths import ROOT
from support.tiny import tiny_config

from sreml_jax.model.conv.algorithms import ALGORITHMS, Geometry
from sreml_jax.run import Run


def figures(subject, tmp_path, monkeypatch, *arguments):
    """What a benchmark keeps in its JSON file."""
    kept = tmp_path / 'kept' / 'figures.json'
    monkeypatch.setattr(sys, 'argv', ['bench', *arguments, '--repeats=1', f'--json={kept}'])
    importlib.import_module(subject).main()
    record = json.loads(kept.read_text())
    assert record['versions']['jax'] and record['date'].startswith('20')
    return record['figures']


def test_step(tmp_path, monkeypatch):
    small = ('--members=8', '--width=4', '--size=32', '--batch=4', '--conv=grouped')  # a member a device
    found = figures('step', tmp_path, monkeypatch, *small)
    assert found['images/s'] == pytest.approx(4 / found['step seconds'], rel=0.1)
    assert found['TFLOP a step, by XLA'] >= 0 and found['compile seconds'] > 0
    assert found['of the matmul rate'] < 1


def test_step_beside_pytorch(tmp_path, monkeypatch):
    pytest.importorskip('torch', reason='torch is not installed')
    monkeypatch.setenv('OMP_NUM_THREADS', '1')  # of the peers' processes: this one has the other core
    step = importlib.import_module('step')
    config_of = step.config_of
    # On one device instead of eight, which would want eight members.
    monkeypatch.setattr(
        step, 'config_of', lambda args: ConfigDict(config_of(args).to_dict() | {'gpu_ids': (0,)})
    )
    small = ('--members=2', '--size=32', '--batch=2', '--conv=grouped', '--peer=loop,vmap')
    found = figures('step', tmp_path, monkeypatch, *small)
    rates = {name: found[f'PyTorch {name} images/s'] for name in ('loop', 'vmap')}
    fastest = found['fastest PyTorch']
    assert rates[fastest] == max(rates.values()) > 0
    assert found['times as fast as the fastest'] == found[f'times as fast as PyTorch {fastest}'] > 0


def test_a_peer_that_dies_leaves_what_is_ours(tmp_path, monkeypatch):
    def die(*_):
        raise SystemExit('error: the PyTorch process ended')

    monkeypatch.setattr('peers.start', die)
    small = ('--members=8', '--width=4', '--size=32', '--batch=4', '--conv=grouped', '--peer=loop')
    with pytest.raises(SystemExit, match='PyTorch process ended'):
        figures('step', tmp_path, monkeypatch, *small)
    kept = json.loads((tmp_path / 'kept' / 'figures.json').read_text())['figures']
    assert kept['images/s'] > 0 and 'PyTorch loop images/s' not in kept


def test_steps_in_a_row_are_counted(tmp_path, monkeypatch):
    step, steps = importlib.import_module('step'), []

    def six_seconds(runs, _):
        for run in runs.values():
            run()
        return dict.fromkeys(runs, 6.0)

    monkeypatch.setattr(step, 'in_a_row', lambda: 3)
    monkeypatch.setattr(step, 'alternate', six_seconds)
    monkeypatch.setattr(jax, 'block_until_ready', lambda found: steps.append(int(found[0].step)))
    small = ('--members=8', '--width=4', '--size=32', '--batch=4', '--conv=grouped')
    found = figures('step', tmp_path, monkeypatch, *small)
    assert steps == [3, 6]  # once to warm up, once timed
    assert (found['step seconds'], found['images/s']) == (2.0, 2.0)


def test_the_device_is_started_after_its_settings():
    """PyTorch shares the card only if JAX is told so before it starts."""
    asks = 'import step, jax; from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())'
    told = subprocess.run(
        [sys.executable, '-c', asks],
        cwd=ROOT / 'launch' / 'bench',
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split()[-1] == 'False'


def peer_of(**fields):
    """Flags of a small ensemble beside a peer."""
    small = {'model_type': 'resnet18', 'members': 1, 'meta_classes': 2, 'width': 64, 'batch': 1, 'size': 32}
    return argparse.Namespace(**small | fields)


def test_a_pytorch_process_that_dies_is_reported():
    pytest.importorskip('torch', reason='torch is not installed')
    step = importlib.import_module('peers').start('loop', peer_of(model_type='none'), Run.of(tiny_config()))
    with pytest.raises(SystemExit, match='the PyTorch process ended'):
        step()


@pytest.mark.parametrize(
    ('name', 'fields', 'message'), [('graph', {}, 'needs a GPU'), ('loop', {'width': 8}, 'width')]
)
def test_a_peer_that_cannot_run_is_refused(name, fields, message):
    pytest.importorskip('torch', reason='torch is not installed')
    with pytest.raises(SystemExit, match=message):
        importlib.import_module('peers').start(name, peer_of(**fields), Run.of(tiny_config()))


def test_recall(tmp_path, monkeypatch):
    found = figures('recall', tmp_path, monkeypatch, '--size=200', '--dim=16')['200 x 16']
    assert found['equal recalls'] and 0 < found['Recall@1'] < 1


def test_recall_of_bfloat16_says_what_it_changes(tmp_path, monkeypatch):
    case = figures('recall', tmp_path, monkeypatch, '--size=200', '--dim=16', '--dtype=bfloat16')['200 x 16']
    assert 0 < case['largest change in any recall'] < 0.1 and case['float32 seconds'] > 0


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [(['--dim=5'], '--size and --dim go together'), (['--repeats=0'], "invalid positive value: '0'")],
)
def test_what_cannot_be_timed_is_refused_at_once(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, 'argv', ['bench', *arguments])
    with pytest.raises(SystemExit, match='2'):
        importlib.import_module('recall').main()
    assert message in capsys.readouterr().err


def test_convs(tmp_path, monkeypatch):
    small = ('--members=2', '--size=32', '--batch=2', '--backbones=resnet18', '--algorithms=matmul,taps')
    found = figures('convs', tmp_path, monkeypatch, *small)['convolutions']
    assert sum(conv['layers'] for conv in found) == 20  # of a ResNet-18
    assert all(conv['forward']['winner'] in ('matmul', 'taps') for conv in found)


@pytest.mark.parametrize('product', ['forward', 'input_gradient', 'kernel_gradient'])
def test_convs_of_a_gpu_have_members_beside_channels(product, monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    x, w, dy = (
        np.random.default_rng(0).standard_normal(shape, np.float32)
        for shape in ((2, 3, 6, 5, 4), (2, 3, 3, 4, 7), (2, 3, 6, 5, 7))
    )
    geometry = Geometry((1, 1), ((1, 1), (1, 1)), 1, None)
    operands = {'forward': (x, w), 'input_gradient': (dy, w, x), 'kernel_gradient': (x, dy, w)}[product]
    expected = getattr(ALGORITHMS['matmul'], product)(*operands, geometry)
    found = importlib.import_module('convs').run('matmul', product, x, w, dy, geometry)()
    if product != 'kernel_gradient':
        expected = np.moveaxis(expected, 0, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_input(tmp_path, monkeypatch):
    for i in range(8):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'{i}.png')
    found = figures(
        'input', tmp_path, monkeypatch, f'--images={tmp_path}', '--image_size=32', '--batch_size=4'
    )
    assert found['images'] == 8 and set(found['images/s']) == {'uncached', 'cached', 'pil', 'pil, kept there'}
