"""Which values a config may have."""

import pytest

from sreml_jax.cli import validation
from sreml_jax.configs import default
from sreml_jax.runtime.errors import UserError


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('model_type', 'resnet51', r"model_type='resnet51' is not known \(did you mean resnet50"),
        ('data_name', 'cube', r'did you mean cub'),
        ('crop_type', 'yes', 'choose one of uncropped, cropped'),
        ('member_conv', 'fast', 'choose one of auto, '),
        ('batch_size', 0, 'batch_size=0 is too small; it must be at least 1'),
        ('learning_rate', float('nan'), 'learning_rate=nan'),
        ('recalls', (), r'recalls=\(\) must be whole numbers'),
        ('recalls', (1, 0), 'whole numbers from 1 up'),
        ('embedding_dim', 576, 'must be less than the 576 numbers of this ensemble, or 0'),
        ('label_smoothing', 1.0, 'at least 0 and less than 1'),
        ('pool', 'max', 'choose one of average, gem'),
        ('embedding', 'features', 'choose one of logits, pooled'),
        ('train_fraction', 1.0, 'between 0 and 1'),
        ('schedule_steps', ('a',), 'numbers in 0..1'),
        ('schedule_steps', (0.5, 7.0), 'numbers in 0..1'),
        ('mean', (0.5, 0.5), 'three numbers'),
        ('std', (0.5, 0.0, 0.5), 'above 0'),
        *(
            (field, float('inf'), 'too large')
            for field in ('warmup_epochs', 'stall_minutes', 'schedule_factor')
        ),
        ('learning_rate', float('inf'), 'too large'),
        ('learning_rate', 0.0, 'too small'),
        ('seed', 10**20, 'too large'),
        ('image_size', 10**8, 'too large'),
        ('ensemble_size', 10**8, 'too large'),
        ('num_epochs', 2**31, 'too large'),
        ('eval_batch_size', 10**12, 'too large'),
        ('max_images_per_class', 10**20, 'too large'),
        ('recalls', (1, 1), 'twice'),
        ('recalls', (True,), 'whole numbers'),
        ('mean', (None, 1, 1), 'three numbers'),
        ('mesh', (1.0, 1), 'two whole numbers'),
        ('data_dir', '~nouser/x', 'names the home of a user'),
        ('data_dir', 'a\0b', 'NUL'),
        ('prepared_dir', 'x' * 5000, 'File name too long'),
        ('prepared_dir', 'gs://bucket/x', 'is an address elsewhere'),
        ('mesh', (1, 2, 3), 'two whole numbers'),
    ],
)
def test_a_value_that_no_run_could_use_is_named(field, value, message):
    config = default.get_config()
    validation.check(config)
    with config.ignore_type():
        config[field] = value
    with pytest.raises(UserError, match=message):
        validation.check(config)
