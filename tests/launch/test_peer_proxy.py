"""The peer with a proxy loss: it learns, starts from the same weights as ours, and ends in its time."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip('torch', reason='torch is not installed')
pytest.importorskip('pytorch_metric_learning', reason='pytorch-metric-learning is not installed')
import peer_proxy  # noqa: E402
import proxy_training  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    """Two tests run at once; threads of both on the same cores slow each other down many times."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


COLORS = ((230, 40, 40), (40, 230, 40), (40, 40, 230), (230, 230, 40), (230, 40, 230), (40, 230, 230))


def squares(folder, colors=COLORS, images=8):
    """A folder of <class>/*.png: noisy squares of one color a class, 12 pixels wide."""
    random = np.random.default_rng(0)
    for color in colors:
        (folder / str(color)).mkdir(parents=True)
        for i in range(images):
            pixels = (np.array(color) + random.normal(0, 25, (12, 12, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / str(color) / f'{i}.png')
    return folder


SMALL = ('--size=12', '--width=4', '--stem=small', '--dimensions=16', '--batch=8')


def figures(tmp_path, monkeypatch, *arguments):
    kept = tmp_path / 'figures.json'
    monkeypatch.setattr(sys, 'argv', ['bench', *SMALL, *arguments, f'--json={kept}'])
    peer_proxy.main()
    return json.loads(kept.read_text())


@pytest.mark.parametrize('loss', proxy_training.LOSSES)
def test_training_finds_separable_classes(loss, tmp_path, monkeypatch):
    images = squares(tmp_path / 'images')
    record = figures(tmp_path, monkeypatch, f'--images={images}', f'--loss={loss}', '--epochs=12')
    found = record['figures']
    print(found)
    assert found['Recall']['1'] == 1 and found['MAP@R'] > 0.9
    assert (found['train images'], found['queries'], found['steps']) == (24, 24, 36)
    assert found['dimensions'] == 16 and record['versions']['pytorch-metric-learning']
