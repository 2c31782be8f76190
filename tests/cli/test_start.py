"""With which config a mode begins, and which devices it may not ask for."""

import jax
import pytest
from support.checkpoints import untrained
from support.tiny import tiny_config, tiny_dataset

from sreml_jax.cli import flags, start
from sreml_jax.configs import folder
from sreml_jax.runtime.errors import UserError


@pytest.fixture
def command(monkeypatch):
    """Stands for a command line with --workdir: whether it names --config, and the fields that it sets."""

    def given(config=False, **fields):
        monkeypatch.setattr(flags, 'given', lambda flag: config and flag == 'config')
        monkeypatch.setattr(flags, 'config_overrides', lambda: fields)
        monkeypatch.setattr(flags, 'WORKDIR', type('Flag', (), {'value': 'here'}))

    return given


@pytest.mark.parametrize('mode', ['train', 'eval', 'report', 'export'])
def test_a_run_goes_on_with_its_own_config_with_and_without_its_config_file(command, tmp_path, mode):
    saved = tiny_config(data_name='folder', pool='gem', learning_rate=0.5)
    untrained(tmp_path, saved, tiny_dataset())
    for file in (True, False):
        command(config=file, num_epochs=7)
        wanted = folder.get_config()
        wanted.num_epochs = 7
        config = start.config_of(mode, tmp_path, wanted)
        assert (config.num_epochs, config.image_size, config.ensemble_size) == (7, 16, 2)
        assert (config.learning_rate, config.meta_class_size) == (0.5, 4)


def test_a_new_run_takes_the_config_of_the_command(command, tmp_path):
    command(config=True)
    wanted = folder.get_config()
    assert start.config_of('train', tmp_path, wanted) is wanted


def test_gpus_are_refused_where_there_is_none(command, monkeypatch):
    command(gpu_ids=(0,))
    start.refuse_gpu_ids()  # virtual devices, as here
    monkeypatch.setattr(jax, 'device_count', lambda: 1)
    with pytest.raises(UserError, match='gpu_ids names GPUs, and JAX sees none here; leave it out'):
        start.refuse_gpu_ids()
    command(gpu_ids=())
    start.refuse_gpu_ids()
