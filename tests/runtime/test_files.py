"""A disk that is full while a run trains, and files that are written whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from support.paths import ROOT, TESTS
from support.runs import NoSignals, final_state, lines
from support.tiny import tiny_config, tiny_dataset

from sreml_jax.runtime import files
from sreml_jax.runtime.errors import RunError
from sreml_jax.train import train

# No file may grow beyond 100 bytes until batch 10 of 12 is asked for: then there is room again.
FULL_WHILE_TRAINING = """
import resource, signal, sys
from pathlib import Path
from sreml_jax.main import quiet_libraries
from support.paths import ROOT, TESTS
from support.runs import NoSignals
from support.tiny import tiny_config, tiny_dataset
from sreml_jax.train import train

dataset = tiny_dataset()
batches = dataset.train_batches

def with_room_at_last(*args):
    for number, batch in enumerate(batches(*args)):
        if number == 9:
            limit(resource.RLIM_INFINITY)
        yield batch

dataset.train_batches = with_room_at_last
quiet_libraries()
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limit(100)
train(tiny_config(checkpoint_minutes=0), Path(sys.argv[1]), dataset, NoSignals())
"""


def test_a_run_goes_on_while_the_disk_is_full_and_saves_when_there_is_room(tmp_path):
    places = os.pathsep.join([str(TESTS), str(Path(__file__).parent), str(ROOT)])
    done = subprocess.run(
        [sys.executable, '-c', FULL_WHILE_TRAINING, tmp_path / 'full'],
        env={k: v for k, v in os.environ.items() if 'CACHE' not in k} | {'PYTHONPATH': places},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert 'the checkpoint of step 1 could not be saved (' in done.stderr
    assert done.stderr.count('metrics.jsonl cannot be written (File too large); its lines wait') == 1
    assert 'Traceback' not in done.stderr
    config = tiny_config()
    train(config, tmp_path / 'whole', tiny_dataset(), NoSignals())
    assert lines(tmp_path / 'full') == lines(tmp_path / 'whole')
    (step, state), (_, expected) = (final_state(config, tmp_path / name) for name in ('full', 'whole'))
    assert step == 12
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'file'
    with files.atomic_write(path) as temporary:
        temporary.write_text('old')
    told = pytest.raises(RunError, match=r'file cannot be written \(.*directory\); make room there')
    with told, files.atomic_write(path) as temporary:
        temporary.write_text('new, in pa')
        (tmp_path / 'nowhere' / 'file').write_text('')
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [('file', 'old')]
