"""The first line of a mode."""

from pathlib import Path

import jax
from support.runs import folder_of
from support.tiny import tiny_config, tiny_dataset

from sreml_jax import data, headline, needs
from sreml_jax.cli import modes
from sreml_jax.model import init
from sreml_jax.run import model_of
from sreml_jax.runtime import machine


def line(monkeypatch, config, *arguments, driver=None, cores=2, **options):
    monkeypatch.setattr(headline.shutil, 'which', lambda _: driver)
    monkeypatch.setattr(machine, 'cores', lambda: cores)
    monkeypatch.setattr(machine, 'free_memory', lambda: 3 * 2**30)
    return headline.headline(config, *arguments, **options)


def test_device_images_members_parameters_and_memory(monkeypatch):
    config = tiny_config()
    number = sum(x.size for x in jax.tree.leaves(init.shapes(model_of(config))['params']))
    needed = needs.device_memory(config) / 2**30
    assert line(monkeypatch, config, tiny_dataset(), training=True) == (
        'CPU (2 cores); train 36 images of 8 classes, test 42 images of 8 classes; '
        f'2 members of resnet18 at 16x16, {number / 1e6:.1f} million parameters; '
        f'training {needed:.1f} GiB, 3.0 GiB free'
    )
    one = line(monkeypatch, tiny_config(ensemble_size=1, width=64))
    assert one.startswith(
        'CPU (2 cores); 1 member of resnet18 at 16x16, 11.2 million parameters; weights 0.0 GiB'
    )


def test_a_cpu_is_slow_if_a_gpu_lies_idle_or_training_takes_hours(monkeypatch):
    idle = line(monkeypatch, tiny_config(), driver='/usr/bin/nvidia-smi')
    assert idle.startswith(
        "CPU (2 cores): slow, while JAX does not see this machine's GPU (pip install 'jax[cu"
    )
    # 48 ResNet-18 of 1.16 + 48 * 2.47 billion operations, three passes, 36 images, 10,000 epochs.
    hours = 3 * (1.16 + 48 * 2.47) * 1e9 * 36 * 10_000 / (2 * 60e9) / 3600
    config = tiny_config(ensemble_size=48, image_size=224, width=64, stem='imagenet', num_epochs=10_000)
    slow = line(monkeypatch, config, tiny_dataset(), training=True)
    assert slow.startswith(f'CPU (2 cores): slow, some {hours:.0f} hours of training; ')
    assert line(monkeypatch, config, tiny_dataset()).startswith('CPU (2 cores); ')  # that only evaluates


def test_a_preparation_says_what_from_where_and_where_to(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, 'cores', lambda: 2)
    monkeypatch.setattr(jax, 'default_backend', None)  # no device is looked for
    config = tiny_config(data_name='folder', prepared_dir='/kept')
    for source, made in (
        (tmp_path, f'from {tmp_path}'),
        (tmp_path / 'none', f'downloaded into {tmp_path / "none"}'),
        (None, 'drawn by the program'),
    ):
        line = headline.of_preparation(config, source)
        assert line == f'CPU (2 cores); folder, {made}; prepared copies in /kept'


def test_prepare_says_it_before_it_begins(monkeypatch, caplog, tmp_path):
    caplog.set_level('INFO', 'sreml_jax')
    monkeypatch.setattr(data, 'summary', lambda _: caplog.messages[0])
    modes.prepare(
        modes.Job(tiny_config(data_name='folder', data_dir=str(folder_of(tmp_path))), tmp_path, None)
    )
    assert f'; folder, from {tmp_path}; prepared copies in ' in caplog.messages[0]


def test_a_removal_says_what_goes_from_how_many():
    told = headline.of_removal
    assert told(Path('birds'), 1200, 'a/*.png', False) == 'birds; 1,200 images; taking out those of a/*.png'
    assert told(Path('birds'), 3, 'a', True).endswith('those of a and those whose files are gone')
    assert told(Path('birds'), 3, None, True) == 'birds; 3 images; taking out those whose files are gone'
