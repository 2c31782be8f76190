"""The crash test's short form, see launch/bench/crash_test.py."""

import subprocess
import sys

from support.paths import ROOT


def test_a_run_killed_five_times_ends_in_the_bits_of_one_never_killed():
    done = subprocess.run(
        [sys.executable, 'launch/bench/crash_test.py', '--kills=5'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *kills, verdict = done.stdout.splitlines()
    assert [line.split(',')[0] for line in kills] == [f'kill {i} of 5' for i in range(1, 6)]
    assert verdict.startswith('5 kills') and 'bit for bit those of a run never killed' in verdict
