"""A dataset and a config so small that a run takes seconds."""

import numpy as np
from ml_collections import ConfigDict

from sreml_jax.configs import default
from sreml_jax.data.in_memory import ArrayDataset


def tiny_config(**fields) -> ConfigDict:
    """Two members of the narrowest ResNet-18 on 16x16 images, three epochs."""
    config = default.get_config()
    config.update(
        image_size=16,
        stem='small',
        width=4,
        ensemble_size=2,
        meta_class_size=4,
        batch_size=8,
        eval_batch_size=16,
        num_epochs=3,
        learning_rate=1e-3,
        recalls=(1, 2, 4),
        compilation_cache='',
        member_conv='grouped',
        gpu_ids=(0,),
        log_every=1,
    )
    config.update(fields)
    return config


def tiny_dataset(classes=8, train=36, test=42) -> ArrayDataset:
    """Noisy copies of one random picture a class; train and test classes differ."""
    random = np.random.default_rng(0)

    def split(images, first):
        labels = first + np.arange(images) % classes
        pictures = random.integers(0, 255, (classes, 16, 16, 3))
        noisy = pictures[labels - first] + random.normal(0, 60, (images, 16, 16, 3))
        return noisy.clip(0, 255).astype(np.uint8), labels

    (train_images, train_labels), (test_images, test_labels) = split(train, 0), split(test, classes)
    return ArrayDataset(
        'tiny', {'train': train_images, 'test': test_images}, {'train': train_labels, 'test': test_labels}
    )
