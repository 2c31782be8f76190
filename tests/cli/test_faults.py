"""What goes wrong on a device, as sentences."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from support.paths import ROOT, TESTS
from support.runs import NoSignals
from support.tiny import tiny_config

from sreml_jax import data, recipe
from sreml_jax.cli import faults, modes
from sreml_jax.needs import device_memory
from sreml_jax.runtime.errors import UserError

# A step that needs some GiB, in a process that may have one more than it has.
OUT_OF_MEMORY = """
import resource, sys
import jax.numpy as jnp, numpy as np
from pathlib import Path
from support.runs import NoSignals
from support.tiny import tiny_config
from sreml_jax.cli import faults
from sreml_jax.data.in_memory import ArrayDataset
from sreml_jax.train import train

images = np.zeros((16384, 32, 32, 3), np.uint8)
dataset = ArrayDataset('zeros', {'train': images}, {'train': np.arange(16384) % 8}, np.zeros(3), np.ones(3))
jnp.zeros(1).block_until_ready()
used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
config = tiny_config(batch_size=16384, image_size=32)
with faults.explained(config):
    train(config, Path(sys.argv[1]), dataset, NoSignals())
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='limits its memory as Linux does')
def test_a_full_device_says_what_is_needed_and_which_fields_lower_it(tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', OUT_OF_MEMORY, str(tmp_path)],
        env={'PYTHONPATH': f'{ROOT}:{TESTS}', 'PATH': '/usr/bin:/bin', 'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    needed = device_memory(tiny_config(batch_size=16384, image_size=32)) / 2**30
    assert needed > 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('sreml_jax.runtime.errors.UserError: a device has too little memory'), done.stderr[
        -2000:
    ]
    for part in (f'{needed:.1f} GiB', 'config.batch_size=16384', 'config.remat=True', 'more devices'):
        assert part in last


def test_a_host_without_memory_for_the_embeddings_says_so():
    told = r'too little memory \(Unable to allocate .* float32\); config.embedding=logits'
    with pytest.raises(UserError, match=told), faults.explained(tiny_config()):
        np.empty((2**40, 2**10), np.float32)


def test_what_is_not_known_stays_what_it_is():
    error = jax.errors.JaxRuntimeError('INTERNAL: something else')
    with pytest.raises(jax.errors.JaxRuntimeError) as raised, faults.explained(tiny_config()):
        raise error
    assert raised.value is error


def test_the_sizes_that_a_recipe_chose_are_in_the_sentence(monkeypatch, tmp_path):
    chosen = tiny_config(batch_size=20, ensemble_size=2)

    def full(*_):
        raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')

    monkeypatch.setattr(modes.start, 'check_run', lambda *_: None)
    monkeypatch.setattr(recipe, 'fitted', lambda *_: chosen)
    monkeypatch.setattr('sreml_jax.train.train', full)
    for name in ('extent', 'load'):
        monkeypatch.setattr(data, name, lambda _: None)
    monkeypatch.setattr(modes.start, 'say_first', lambda *_, **__: None)
    left_open = tiny_config(batch_size=20, ensemble_size=0)
    told = f'training needs {device_memory(chosen) / 2**30:.1f} GiB on each; lower config.batch_size=20'
    with pytest.raises(UserError, match=told), faults.explained(left_open):
        modes.train(modes.Job(left_open, tmp_path, NoSignals()))
