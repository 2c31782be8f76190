"""With which config a mode begins, and which devices it may not ask for."""

import jax
import pytest
from support.checkpoints import TABLE, untrained
from support.tiny import tiny_config, tiny_dataset

from sreml_jax.cli import flags, start
from sreml_jax.configs import folder
from sreml_jax.embedder import Embedder
from sreml_jax.runtime.errors import UserError
from sreml_jax.training import published


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


def test_a_published_run_keeps_what_it_began_with_beside_a_config_file(command, tmp_path, monkeypatch):
    untrained(tmp_path / 'run', tiny_config(gpu_ids=(0, 1), mesh=(1, 2)), tiny_dataset())
    embedder, pulled = Embedder(tmp_path / 'run', reduce=False), tmp_path / 'pulled'
    pulled.mkdir()
    published.write(
        *(pulled, embedder.variables, embedder.run.config),
        step=0,
        versions={},
        meta_table=TABLE,
        classes=[],
    )
    devices = jax.devices()
    for here in (devices, devices[:1]):  # the publisher's two, or fewer
        monkeypatch.setattr(jax, 'devices', lambda here=here: here)
        for file in (True, False):
            command(config=file)
            config = start.config_of('eval', pulled, folder.get_config())
            assert (config.image_size, config.ensemble_size) == (16, 2)
            assert (config.gpu_ids, config.mesh) == (((0, 1), (1, 2)) if here is devices else ((), ()))


def test_devices_that_this_machine_lacks_are_left_out(command, tmp_path, monkeypatch, caplog):
    untrained(tmp_path, tiny_config(gpu_ids=(1, 2), mesh=(2, 1)), tiny_dataset())
    command()
    assert start.config_of('eval', tmp_path, folder.get_config()).gpu_ids == (1, 2)
    caplog.set_level('INFO', 'sreml_jax')
    devices = jax.devices()
    monkeypatch.setattr(jax, 'devices', lambda: devices[:1])
    config = start.config_of('eval', tmp_path, folder.get_config())
    assert (config.gpu_ids, config.mesh) == ((), ())
    assert 'on all devices of this machine, for the run was on others: gpu_ids=1,2: this' in caplog.text
    assert start.config_of('train', tmp_path, folder.get_config()).gpu_ids == (1, 2)  # which refuses them
