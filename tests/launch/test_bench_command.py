"""`python launch/bench SUBJECT`: one command for all benchmarks, with the settings of launch/malloc.env."""

import json
import os
import subprocess
import sys

from support.paths import ROOT


def run(*arguments, **environment):
    """Runs the command in another folder than the checkout."""
    ours = {name: value for name, value in os.environ.items() if name not in ('GLIBC_TUNABLES', 'PYTHONPATH')}
    return subprocess.run(
        [sys.executable, ROOT / 'launch' / 'bench', *arguments],
        cwd=ROOT.parent, env=ours | environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def recall(kept, **environment):
    """What the smallest recall benchmark keeps in its JSON file."""
    done = run('recall', '--size=200', '--dim=16', '--repeats=1', f'--json={kept}', **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(kept.read_text())


def test_a_benchmark_runs_in_any_folder_with_the_settings_that_the_demo_has(tmp_path):
    sourced = subprocess.run(
        ['sh', '-c', f'set -a; . {ROOT}/launch/malloc.env; exec env'],
        capture_output=True,
        text=True,
        check=True,
    )
    settings = dict(line.split('=', 1) for line in sourced.stdout.splitlines() if '=' in line)
    record = recall(tmp_path / 'figures.json')
    assert record['figures']['200 x 16']['Recall@1'] > 0
    assert record['environment']['GLIBC_TUNABLES'] == settings['GLIBC_TUNABLES']
    assert 'glibc.malloc.hugetlb=1' in settings['GLIBC_TUNABLES']


def test_the_users_own_allocator_settings_stay(tmp_path):
    record = recall(tmp_path / 'figures.json', GLIBC_TUNABLES='glibc.malloc.hugetlb=0')
    assert record['environment']['GLIBC_TUNABLES'] == 'glibc.malloc.hugetlb=0'


def test_an_unknown_subject_is_refused():
    done = run('speed')
    assert done.returncode == 2 and done.stdout == ''
    assert done.stderr.startswith('usage: python launch/bench {step,')
