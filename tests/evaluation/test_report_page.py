"""report.html: its contents, and that names cannot inject code."""

import html
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from support.looking import STRANGE, begun, named_dataset

from sreml_jax import data
from sreml_jax.cli import modes
from sreml_jax.embedder import Embedder
from sreml_jax.evaluation import report_page
from sreml_jax.evaluation.result import Result
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.runtime.errors import UserError
from sreml_jax.training.checkpoint import newest_config

LABELS = np.zeros(2, int)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory) -> Path:
    """A run that has only begun."""
    return begun(tmp_path_factory.mktemp('runs') / 'tiny')


@pytest.fixture(scope='module')
def embedder(workdir) -> Embedder:
    """Of that run."""
    return Embedder(workdir)


@pytest.fixture(scope='module')
def page(workdir, embedder) -> str:
    """Its report."""
    path = report_page.write(embedder, named_dataset())
    assert path == workdir / 'report.html'
    return path.read_text()


def section(page: str, name: str) -> str:
    """The text of a section, without its tags."""
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.S)
    return ' '.join(html.unescape(re.sub(r'<[^>]*>', ' ', found[1])).split())


def test_recall_is_that_of_the_checkpoint(embedder, page):
    dataset = named_dataset()
    embeddings = embedder.images(next(dataset.images('test', np.arange(42), 42)))
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -2)
    labels = dataset.labels['test']
    right = labels[np.argsort(-similarity, 1)] == labels[:, None]
    shown = section(page, 'recall') + ' '
    for k, others in ((1, '12.50% 18.75%'), (2, '25.00%'), (4, '')):
        assert f' {k} {100 * right[:, :k].any(1).mean():.2f}% {others}' in shown
    assert 'raw pixels random resnet18, pooled 1 ' in shown
    assert '<dt>MAP@R</dt><dd>43.75%</dd>' in page and '<dt>R-precision</dt><dd>56.25%</dd>' in page
    assert 'each of 42 images against the 41 others; 8 classes' in page


def test_config_versions_and_curves(page):
    assert 'learning_rate 0.25' in section(page, 'config')
    assert re.search(r'\bjax (\S+) \1', section(page, 'versions'))
    assert 'alt="loss by step: from 1.98 to 0.81"' in page
    assert 'alt="accuracy by step' in page


def test_members_curve(page):
    assert section(page, 'members').endswith('subsets 1 25.00% 2.00 2 2 37.50% 1')
    assert 'alt="Recall@1 by the number of members"' in page


def test_fewer_dimensions(page):
    assert section(page, 'shrunk').endswith('Recall@1 8 int8 8 31.25%')


def test_names_are_shown_and_never_run(page):
    assert STRANGE not in page and '<b>odd' not in page
    assert html.escape(STRANGE).replace('&quot;', '&#34;') in page
    assert page.count('<circle') == 42 + 2  # and two of the key


def test_the_map_has_a_legend(page):
    shown = section(page, 'map')
    assert all(f' {name} ' in f'{shown} ' for name in (STRANGE, *map(str, range(9, 16))))
    assert 'its nearest neighbor is of its class it is of another class' in shown


def test_nothing_is_fetched(page):
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert 'url(' not in page and '@import' not in page


def test_an_evaluation_of_another_step_or_embedding_is_not_shown(workdir, tmp_path):
    def shown(folder, step, name, recall=0.5):
        own = Result.of(
            np.array([0, 1]),
            (1,),
            Protocol(LABELS, LABELS, True),
            dataset='d',
            crop='uncropped',
            embedding=name,
        )
        own.recall[1] = recall
        return report_page._from_evaluation(folder, step, own)['baselines'].get('raw pixels', {})

    name = 'resnet18 x 2'
    assert report_page.evaluated(workdir, 0, name) and not report_page.evaluated(workdir, 1, name)
    assert shown(workdir, 0, name) == {1: 0.125, 2: 0.25}
    assert shown(workdir, 1, name) == {}
    assert shown(workdir, 0, f'{name}, pooled') == {}
    results = json.loads((workdir / 'results.json').read_text()) | {'recall': {'1': 0.25}}
    (tmp_path / 'results.json').write_text(json.dumps(results))
    assert shown(tmp_path, 0, name, 0.25) and not shown(tmp_path, 0, name, 0.75)
    (tmp_path / 'results.json').unlink()
    assert shown(tmp_path, 0, name) == {}
    (tmp_path / 'results.json').write_text('{')
    assert shown(tmp_path, 0, name) == {}


@pytest.mark.parametrize('package', ['jinja2', 'sklearn'])
def test_without_the_optional_dependencies(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs {package}: pip install 'sreml_jax\[report\]'"):
        report_page.check_installed()


def test_by_the_mode(workdir, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(workdir, tmp_path / 'run')
    (copy / 'report.html').unlink(missing_ok=True)  # another test's, if it came first
    (copy / 'metrics.jsonl').unlink()
    monkeypatch.setattr(data, 'load', lambda config: named_dataset())
    modes.report(modes.Job(newest_config(copy), copy, signals=None))
    assert capsys.readouterr().out == f'{copy / "report.html"} shows the run\n'
    assert 'holds no metrics.jsonl' in section((copy / 'report.html').read_text(), 'curves')
    assert not list(copy.glob('*.tmp'))
