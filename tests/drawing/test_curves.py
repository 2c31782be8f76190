"""Curves read from metrics.jsonl."""

import base64
import json
from xml.etree import ElementTree

import numpy as np

from sreml_jax.drawing import curves


def test_values_that_are_there(tmp_path):
    lines = [{'step': 10 * i, 'loss': None if i == 2 else 5.0 - i, 'accuracy': None} for i in range(1, 5)]
    path = tmp_path / 'metrics.jsonl'
    path.write_text('\n'.join(map(json.dumps, lines)) + '\n{"step": 50, "lo')
    (loss,) = curves.read(path)  # no accuracy was finite
    assert loss.name == 'loss'
    assert loss.steps.tolist() == [10, 30, 40] and loss.values.tolist() == [4, 2, 1]
    assert curves.read(tmp_path / 'nothing') == []
    for other in ('5', '[]', '{"loss": 1}', 'null'):
        path.write_text(json.dumps(lines[0]) + f'\n{other}\n' + json.dumps(lines[2]))
        assert curves.read(path)[0].steps.tolist() == [10]


def test_the_mean_and_its_picture():
    values = np.random.default_rng(0).normal(size=100)
    curve = curves.Curve('loss', np.arange(100), values)
    np.testing.assert_allclose(curve.mean[50], values[48:52].mean())  # a 25th of all
    head, _, content = curve.drawn().partition(',')
    assert head == 'data:image/svg+xml;base64'
    assert ElementTree.fromstring(base64.b64decode(content)).tag.endswith('svg')
