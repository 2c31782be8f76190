"""launch/test_matrix.sh: its rows, by a pytest that is a stub."""

import os
import shutil
import subprocess

import pytest
from support.paths import ROOT

STUB = """#!/bin/sh
echo "$XLA_FLAGS | $*" >>calls
case "$XLA_FLAGS" in *SSE4_2*) exit 1 ;; esac
"""


@pytest.fixture
def checkout(tmp_path):
    """The script in a folder whose Python and setup.sh are stubs."""
    (tmp_path / 'launch').mkdir()
    shutil.copy(ROOT / 'launch' / 'test_matrix.sh', tmp_path / 'launch')
    for name, text in (('.venv/bin/python', STUB), ('launch/setup.sh', '#!/bin/sh\n')):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    return tmp_path


def run(checkout, *arguments, **environment):
    ours = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    command = [checkout / 'launch' / 'test_matrix.sh', *arguments]
    return subprocess.run(command, env=ours | environment, capture_output=True, text=True, timeout=60)


def test_every_instruction_set_runs_the_tests_and_a_failure_stops_none(checkout):
    done = run(checkout, 'tests/some', MATRIX='SSE4_2 AVX2 AVX512 as-it-is')
    calls = [line.split('|')[0].strip() for line in (checkout / 'calls').read_text().splitlines()]
    optimized = '--xla_backend_optimization_level=3'
    isas = ('SSE4_2', 'AVX2', 'AVX512')
    assert calls == [*(f'{optimized} --xla_cpu_max_isa={isa}' for isa in isas), optimized]
    assert 'tests/some' in (checkout / 'calls').read_text().splitlines()[0]
    expected = ['SSE4_2: FAILED', 'AVX2: passed', 'AVX512: passed', 'as-it-is: passed']
    assert done.stdout.splitlines()[-4:] == expected
    assert done.returncode == 1


def test_a_version_of_jax_that_cannot_be_installed_is_skipped_with_the_reason(checkout):
    for version in ('3.13', '3.12', '3.11', '3'):
        python = checkout / 'bin' / f'python{version}'
        python.parent.mkdir(exist_ok=True)
        python.write_text('#!/bin/sh\nexit 1\n')
        python.chmod(0o755)
    done = run(checkout, MATRIX='jax-0.12', PATH=f'{checkout}/bin:{os.environ["PATH"]}')
    assert done.stdout.splitlines()[-1] == 'jax-0.12: skipped, no Python here can install it'
    assert done.returncode == 0 and not (checkout / 'calls').exists()
