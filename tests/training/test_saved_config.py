"""How a config comes back from a checkpoint."""

import json

import numpy as np
import pytest
from support.checkpoints import untrained
from support.tiny import tiny_config, tiny_dataset

from sreml_jax import resume
from sreml_jax.configs import default, folder
from sreml_jax.embedder import Embedder
from sreml_jax.run import Run
from sreml_jax.runtime.errors import UserError
from sreml_jax.training import saved_config
from sreml_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures('few_blocks')


def test_a_config_survives_its_checkpoint():
    config = default.get_config()
    config.update(recalls=(1, 3), learning_rate=0.5, model_type='resnet34')
    assert saved_config.restore(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_saved_fields_are_left_out_and_new_ones_keep_their_default():
    config = saved_config.restore({'batch_size': 5, 'forgotten': 1})
    assert config.batch_size == 5
    assert config.num_epochs == default.get_config().num_epochs


def test_a_run_keeps_its_normalization_whatever_the_command_says(tmp_path):
    config, dataset = tiny_config(), tiny_dataset()
    untrained(tmp_path, config, dataset)
    other = tiny_config(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    resumed = resume.start(Run.of(other), Checkpoints(tmp_path), dataset, tmp_path).run.config
    embedder = Embedder(tmp_path, other)
    for found in (resumed, embedder):
        np.testing.assert_allclose(found.mean, dataset.mean, rtol=1e-6)
        np.testing.assert_allclose(found.std, dataset.std, rtol=1e-6)


def said(**fields):
    """The config of configs/folder.py with these flags, and their names."""
    config = folder.get_config()
    config.update(fields)
    return config, fields


def test_a_run_goes_on_with_its_own_config_and_what_is_said(caplog):
    caplog.set_level('INFO', 'sreml_jax')
    saved = folder.get_config()
    saved.update(
        ensemble_size=6,
        image_size=96,
        meta_class_size=10,
        pool='average',
        data_dir='birds',
        mean=(0.1, 0.2, 0.3),
    )
    config = saved_config.going_on(saved, *said(num_epochs=4, image_size=64))
    assert saved_config.differences(saved, config) == {'num_epochs': (10, 4), 'image_size': (96, 64)}
    assert caplog.messages == [
        "the run keeps what it began with, where the config file differs: pool is 'average', not 'gem'"
    ]
    file = folder.get_config()
    file.learning_rate = 0.5  # what a config file sets counts, unless it belongs to the run
    assert saved_config.going_on(saved, file, ()).learning_rate == 0.5


def test_another_dataset_is_seen_and_another_normalization_refused():
    saved = folder.get_config()
    saved.update(data_name='cub', mean=(0.1, 0.2, 0.3))
    assert saved_config.going_on(saved, *said()).data_name == 'folder'
    assert saved_config.going_on(saved, *said(mean=(0.1, 0.2, 0.3))).mean == (0.1, 0.2, 0.3)
    with pytest.raises(UserError, match='belongs to its checkpoint; leave the flag out'):
        saved_config.going_on(saved, *said(mean=(0.1, 0.2, 0.4)))
