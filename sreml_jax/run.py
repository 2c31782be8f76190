"""What training and evaluation are both made from: a config's mesh, model and optimizer."""

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sreml_jax import mesh as meshes
from sreml_jax.learning import optimizer, step
from sreml_jax.model.ensemble import Ensemble


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of a run that its config makes."""

    config: ConfigDict
    mesh: Mesh
    model: Ensemble

    @classmethod
    def of(cls, config: ConfigDict) -> 'Run':
        """Makes the parts; raises UserError where the devices can not share the ensemble or the batch."""
        mesh = meshes.make(config)
        return cls(config, mesh, model_of(config, mesh.devices.flat[0].platform))

    def adam(self, steps_per_epoch: int) -> optax.GradientTransformation:
        """Returns the optimizer, with the learning rate's schedule."""
        return optimizer.adam(optimizer.schedule(self.config, steps_per_epoch))

    @property
    def name(self) -> str:
        """What makes the embeddings, as the head of a table's column: 'resnet18 x 48'."""
        pooled = ', pooled' if self.model.embedding == 'pooled' else ''
        return f'{self.model.model_type} x {self.model.members}{pooled}'

    def abstract_state(self, adam: optax.GradientTransformation) -> step.TrainState:
        """Returns the shapes, dtypes and shardings of the training state on this run's mesh."""
        return step.abstract_state(self.model, adam, self.mesh)


def model_of(config: ConfigDict, platform: str | None = None) -> Ensemble:
    """Returns the ensemble that the config describes; `platform` decides dtype='auto'."""
    dtype = config.dtype
    if dtype == 'auto':
        dtype = 'float32' if (platform or jax.default_backend()) == 'cpu' else 'bfloat16'
    return Ensemble(
        model_type=config.model_type,
        members=config.ensemble_size,
        meta_classes=config.meta_class_size,
        width=config.width,
        stem=config.stem,
        dtype=jnp.dtype(dtype),
        conv=config.member_conv,
        remat=config.remat,
        pool=config.pool,
        embedding=config.embedding,
    )


def fingerprint(variables: dict[str, Any]) -> str:
    """Returns a hash of the trunk and of all statistics, which a step of training changes.

    Several hosts must all call it: each holds the statistics of some members only.
    """
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves([variables['params']['trunk'], variables['batch_stats']]):
        whole = leaf if leaf.is_fully_replicated else multihost_utils.process_allgather(leaf, tiled=True)
        digest.update(np.asarray(whole).tobytes())
    return digest.hexdigest()
