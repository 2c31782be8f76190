"""What a config leaves open is chosen to fit the photographs and the machine."""

import jax

from sreml_jax import memory, recipe
from sreml_jax.cli import validation
from sreml_jax.configs import default, folder
from sreml_jax.data.dataset import Extent
from sreml_jax.runtime import machine

GIB = 2**30


def chosen(extent, monkeypatch, *, cores=2, free=100 * GIB, **fields):
    """(members, image size, meta classes) of configs/folder.py on a CPU of so many cores and bytes."""
    monkeypatch.setattr(machine, 'cores', lambda: cores)
    monkeypatch.setattr(machine, 'free_memory', lambda: free)
    config = folder.get_config()
    config.update(gpu_ids=(0,), **fields)
    validation.check(config)
    config = recipe.fitted(config, extent)
    validation.check(config)
    return config.ensemble_size, config.image_size, config.meta_class_size


def test_a_cpu_trains_what_it_can_in_some_minutes(monkeypatch, caplog):
    caplog.set_level('INFO', 'sreml_jax')
    # A ResNet-18 of 1.16 (trunk) and 2.47 (member) billion operations at 224 pixels, three passes, 10 epochs.
    each = 3 * 10 * 590 * (96 / 224) ** 2 * 1e9
    assert (1.16 + 4 * 2.47) * each / (2 * 60e9) < 360 < (1.16 + 6 * 2.47) * each / (2 * 60e9)
    assert chosen(Extent(590, 10, 227), monkeypatch) == (4, 96, 10)
    (message,) = caplog.messages
    assert '590 images of 227 pixels and 2 CPU cores (some 5 minutes of training)' in message
    assert '4 members, 96x96 pixels, 10 meta classes (there are only 10 classes to train on)' in message
    assert message.endswith('set by --config.ensemble_size --config.image_size --config.meta_class_size')


def test_more_cores_and_fewer_images_allow_more(monkeypatch):
    assert chosen(Extent(590, 40, 227), monkeypatch, cores=16) == (16, 128, 40)
    assert chosen(Extent(60, 5, 100), monkeypatch) == (24, 128, 5)
    assert chosen(Extent(60, 5, 20), monkeypatch)[1] == 64  # small drawings are not blown up further
    assert chosen(Extent(10**6, 400, 900), monkeypatch) == (4, 64, 100)


def test_what_is_set_stays_and_little_memory_means_fewer_members(monkeypatch, caplog):
    caplog.set_level('INFO', 'sreml_jax')
    extent = Extent(590, 40, 227)
    assert chosen(extent, monkeypatch, image_size=64, meta_class_size=20) == (8, 64, 20)
    assert chosen(extent, monkeypatch, ensemble_size=2) == (2, 128, 40)
    assert 'ensemble_size' not in caplog.messages[-1]
    little = folder.get_config()
    little.update(gpu_ids=(0,), ensemble_size=8, image_size=64, meta_class_size=40)
    free = sum(memory.training_needs(little).values()) / recipe.MEMORY_SHARE
    assert chosen(extent, monkeypatch, image_size=64, free=free * 1.02) == (8, 64, 40)
    assert chosen(extent, monkeypatch, image_size=64, free=free * 0.98) == (6, 64, 40)


def test_nothing_open_is_nothing_chosen(caplog):
    config = default.get_config()
    assert recipe.fitted(config, Extent(10, 2, 50)) is config
    assert not caplog.messages


def test_a_gpu_trains_what_its_memory_holds(monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    config = folder.get_config()
    config.update(gpu_ids=(0,), dtype='bfloat16')
    for free, members in ((70 * GIB, 48), (10 * GIB, 24), (GIB, 4)):
        monkeypatch.setattr(memory, 'free', lambda free=free: free)
        found = recipe.fitted(config, Extent(5000, 100, 500))
        assert found.image_size == 256
        assert found.ensemble_size == members
