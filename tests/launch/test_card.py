"""`python launch/bench card`: its parts in small, on a CPU; what time limits and kills leave behind."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from support.paths import ROOT

CARD = [sys.executable, str(ROOT / 'launch' / 'bench'), 'card', '--tiny']


@pytest.fixture
def birds(tmp_path):
    """Six photographs of each of four classes."""
    for label in range(4):
        folder = tmp_path / 'birds' / str(label)
        folder.mkdir(parents=True)
        for i in range(6):
            Image.new('RGB', (40, 30), (60 * label, 40 * i, 200)).save(folder / f'{i}.png')
    return tmp_path / 'birds'


def run(kept, *arguments, **environment):
    """Runs it to its end; returns the exit code, the output and the record."""
    done = subprocess.run(
        [*CARD, f'--json={kept}', *arguments],
        env=os.environ | {'XLA_FLAGS': '--xla_backend_optimization_level=0'} | environment,  # one device
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.returncode, done.stdout + done.stderr, json.loads(kept.read_text()) if kept.exists() else None


def test_birds_are_trained_and_found_without_tensorflow(tmp_path, birds):
    (tmp_path / 'none' / 'tensorflow').mkdir(parents=True)
    (tmp_path / 'none' / 'tensorflow' / '__init__.py').write_text('raise ImportError("not here")')
    kept = tmp_path / 'card.json'
    code, output, record = run(kept, f'--birds={birds}', '--parts=birds', PYTHONPATH=str(tmp_path / 'none'))
    assert code == 0, output
    figures = record['parts']['birds']['figures']
    assert (figures['train images'], figures['queries'], figures['steps']) == (12, 12, 3)
    seconds = figures['seconds']
    assert seconds['training'] > seconds['training: compilation'] + seconds['training: saves'] > 0
    assert 0 < figures['Recall']['1'] <= 1


def test_a_part_that_takes_too_long_is_stopped_and_the_others_stay(tmp_path):
    code, output, record = run(tmp_path / 'card.json', '--parts=recall,check of', '--minutes=0.15')
    recall, *others = record['parts'].values()
    assert recall['state'] == 'done', output
    assert 0 < recall['figures']['200 x 16']['Recall@1'] < 1
    assert [part['state'].startswith('stopped after its ') for part in others] in ([True], [])
    assert len(others) + len(record['not started']) == 1
    assert code == 0


def test_a_part_that_fails_is_named_and_the_next_one_runs(tmp_path):
    parts = "--parts=birds,recall at SOP's size"
    code, _, record = run(tmp_path / 'card.json', '--birds=/nowhere', parts)
    failed, done = record['parts'].values()
    assert code == 1 and failed['state'] == 'failed with exit code 1'
    assert 'error: no pictures in /nowhere' in failed['said']
    assert done['state'] == 'done'


def test_the_peers_part_has_ours_too(tmp_path):
    _, _, record = run(tmp_path / 'card.json', '--parts=step resnet18,peers', '--minutes=0')
    with_torch = importlib.util.find_spec('torch') is not None
    alone = [] if with_torch else ['step resnet18']
    assert record['not started'] == [*alone, 'peers of resnet18', "step resnet18, XLA's ways"]


def test_killed_half_way_it_has_kept_what_was_finished(tmp_path):
    kept = tmp_path / 'card.json'
    process = subprocess.Popen(
        [*CARD, f'--json={kept}', '--parts=recall,check of'], stdout=subprocess.DEVNULL
    )
    for _ in range(1200):
        if kept.exists():
            break
        time.sleep(0.1)
    parts = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    for part in parts:  # the one under way, which runs on by itself
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(part), signal.SIGKILL)
    record = json.loads(kept.read_text())
    assert record['parts']["recall at SOP's size"]['state'] == 'done'
    assert record['not started'] == ['check of the rest']
    assert [path.name for path in tmp_path.iterdir()] == ['card.json']
