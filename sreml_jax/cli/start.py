"""What every mode begins with: its config, what is checked before any work, and its first line."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from sreml_jax.cli import flags
from sreml_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from sreml_jax.data.dataset import Dataset

log = logging.getLogger(__name__)


def config_of(mode: str, workdir: Path, config: ConfigDict) -> ConfigDict:
    """Returns the command line's config, based on the config of the run that the mode continues."""
    from sreml_jax.training import published, saved_config

    begun = any((workdir / 'checkpoints').glob('[0-9]*')) or published.is_there(workdir)
    if not flags.MODES[mode].of_run and not (mode == 'train' and begun):
        return config
    own, said = None, flags.config_overrides()
    if not flags.given('config'):
        own = _own_config(mode, workdir)
        config = own.copy_and_resolve_references()
        config.update_from_flattened_dict(said)
    elif begun and (flags.WORKDIR.value or 'index' not in flags.MODES[mode].needs):
        own = _saved_config(mode, workdir)
    return saved_config.going_on(own, config, said) if own else config


def refuse_gpu_ids() -> None:
    """Raises UserError if the command line names GPUs, and JAX sees none."""
    import jax

    # If there are several CPU devices, somebody made virtual ones and numbers them on purpose.
    named = flags.config_overrides().get('gpu_ids')
    if named and jax.default_backend() == 'cpu' and jax.device_count() == 1:
        raise UserError(
            'config.gpu_ids names GPUs, and JAX sees none here; leave it out to compute on the CPU, which is '
            "slow, or install JAX for your GPU (pip install 'jax[cuda13]')"
        )


def check_run(config: ConfigDict, workdir: Path, *, trained: bool = False) -> None:
    """Raises UserError for what can be seen before a dataset is prepared, which takes time and disk.

    trained: there must be a checkpoint.
    """
    from sreml_jax import data, memory, recipe
    from sreml_jax.model.weights import torchvision
    from sreml_jax.runtime import sharding

    check_writable(workdir)
    sharding.make(config)
    begun = any(path.name.isdigit() for path in (workdir / 'checkpoints').glob('*'))
    if not trained and not begun:
        if config.weights == 'imagenet' and not config.download:
            data.found(config)  # the user's own images can be at fault too, and no network is needed
        torchvision.check_there(config.weights, config.model_type)
        if all(config[field] for field in recipe.FIELDS):
            memory.refuse_training(config)
    if trained or begun:
        from sreml_jax.training import saved_config
        from sreml_jax.training.checkpoint import newest_config

        saved_config.refuse_other_model(newest_config(workdir), config, str(workdir))


def check_writable(workdir: Path) -> None:
    """Raises UserError unless `workdir` is, or can become, a folder to write in."""
    folder = workdir.absolute()
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f'{folder} is not a folder that can be written in; take another --workdir')


def say_first(config: ConfigDict, dataset: 'Dataset | None' = None, *, training: bool = False) -> None:
    """Says on what a mode runs and how much there is to do; see `headline`."""
    from sreml_jax.headline import headline

    say(headline(config, dataset, training=training))


def say(line: str) -> None:
    """Prints a mode's first line, where messages go."""
    log.info('%s', line)


def _own_config(mode: str, workdir: Path) -> ConfigDict:
    """Returns the config to use without --config: the run's, the index's, or that of pretrained weights."""
    from sreml_jax.configs import pretrained
    from sreml_jax.search.index import Index, compatibility

    if not flags.WORKDIR.value:
        if 'index' in flags.MODES[mode].needs:
            index = Index(flags.path(flags.INDEX))
            return _on_this_machine(compatibility.config_of(index.folder, index.about))
        if mode == 'embed':
            return pretrained.get_config()
    return _saved_config(mode, workdir)


def _saved_config(mode: str, workdir: Path) -> ConfigDict:
    """Returns the config of a run's newest checkpoint; training goes on with its devices alone."""
    from sreml_jax.training import checkpoint

    config = checkpoint.newest_config(workdir)
    return config if mode == 'train' else _on_this_machine(config)


def _on_this_machine(config: ConfigDict) -> ConfigDict:
    """Returns a saved config, on all devices if this machine lacks those that it names."""
    from sreml_jax.runtime import sharding

    if config.gpu_ids or config.mesh:
        try:
            sharding.make(config)
        except UserError as error:
            log.info('on all devices of this machine, for the run was on others: %s', error)
            config.update(gpu_ids=(), mesh=())
    return config
