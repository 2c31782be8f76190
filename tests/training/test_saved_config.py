"""How a config comes back from a checkpoint."""

import json

from sreml_jax.configs import default
from sreml_jax.training import saved_config


def test_a_config_survives_its_checkpoint():
    config = default.get_config()
    config.update(recalls=(1, 3), learning_rate=0.5, model_type='resnet34')
    assert saved_config.restore(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_saved_fields_are_left_out_and_new_ones_keep_their_default():
    config = saved_config.restore({'batch_size': 5, 'forgotten': 1})
    assert config.batch_size == 5
    assert config.num_epochs == default.get_config().num_epochs
