"""The mesh and the model of a config, which training and evaluation share."""

import dataclasses
import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from sreml_jax.model import init
from sreml_jax.model.ensemble import Ensemble
from sreml_jax.runtime import hosts, sharding
from sreml_jax.training import saved_config


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of a run that follow from its config."""

    config: ConfigDict
    mesh: Mesh
    model: Ensemble

    @classmethod
    def of(cls, config: ConfigDict) -> 'Run':
        """Makes the parts; raises UserError if the devices cannot share members or batches evenly."""
        mesh = sharding.make(config)
        return cls(config, mesh, model_of(config, mesh.devices.flat[0].platform))

    def normalized_by(self, mean: Iterable[float], std: Iterable[float]) -> 'Run':
        """Returns the run with this mean and std; an empty one leaves the config's own."""
        return dataclasses.replace(self, config=saved_config.with_normalization(self.config, mean, std))

    @property
    def name(self) -> str:
        """What makes the embeddings, for the head of a table's column: 'resnet18 x 48'."""
        pooled = ', pooled' if self.model.embedding == 'pooled' else ''
        mirrored = ', mirrored' if self.model.mirrored else ''
        return f'{self.model.model_type} x {self.model.members}{pooled}{mirrored}'

    def abstract_variables(self) -> dict[str, Any]:
        """Returns the shapes, dtypes and shardings of weights and statistics on this run's mesh."""
        return sharding.abstract(self.mesh, init.shapes(self.model))


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
        mirrored=config.mirrored,
    )


def fingerprint(variables: dict[str, Any]) -> str:
    """Returns 'v2:' and a hash of all weights and BatchNorm statistics; it does not depend on the mesh.

    Several hosts must all call it: each hashes what it holds, and only hashes cross the network.
    """
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    with ThreadPoolExecutor() as pool:  # hashlib releases the GIL
        hashes = np.concatenate(list(pool.map(_hashes, *zip(*leaves, strict=True))))
    return f'v2:{hashlib.sha256(hosts.combine(hashes, np.max).tobytes()).hexdigest()}'


def _hashes(path: tuple, leaf: jax.Array) -> np.ndarray:
    """Returns uint8 [members, 32], or [1, 32] of an array that all share; 0 for what other hosts hash."""
    by_member = sharding.spec_of(path) != PartitionSpec()
    hashes = np.zeros((leaf.shape[0] if by_member else 1, 32), np.uint8)
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            parts, first = np.asarray(shard.data), (shard.index[0].start or 0) if by_member else 0
            for i, part in enumerate(parts if by_member else [parts], first):
                hashes[i] = np.frombuffer(hashlib.sha256(np.ascontiguousarray(part).data).digest(), np.uint8)
    return hashes


def old_fingerprint(variables: dict[str, Any]) -> str:
    """Returns the hash that older indexes and PCA files hold: of the trunk and the BatchNorm statistics.

    Several hosts must all call it: each holds the statistics of some members only.
    """
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves([variables['params']['trunk'], variables['batch_stats']]):
        whole = leaf if leaf.is_fully_replicated else multihost_utils.process_allgather(leaf, tiled=True)
        digest.update(np.asarray(whole).tobytes())
    return digest.hexdigest()
