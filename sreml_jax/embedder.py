"""A trained run as a function from images to embeddings. Only this module restores a checkpoint for use."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from tqdm import tqdm

from sreml_jax.data import photographs, prefetch
from sreml_jax.data.dataset import IMAGENET_MEAN, IMAGENET_STD, Dataset
from sreml_jax.model.weights import torchvision
from sreml_jax.retrieval import pca
from sreml_jax.retrieval.pca import PCA
from sreml_jax.run import Run, fingerprint, old_fingerprint
from sreml_jax.runtime import progress, sharding
from sreml_jax.runtime.errors import UserError
from sreml_jax.training import checkpoint, saved_config, step


class Embedder:
    """The newest checkpoint of a run, on the devices of its mesh.

    Args:
      workdir: of the run.
      config: of the same model; default: the run's own.
      reduce: apply the PCA if config.embedding_dim is set.

    Attributes:
      run, variables: the parts of the run; its weights and BatchNorm statistics on the devices.
      step: of the checkpoint.
      trained: a run made the weights; if not, they are pretrained ones, and `workdir` is empty.
      fingerprint: hash of the checkpoint's weights and statistics.
      old_fingerprint: the hash that older indexes and PCA files hold; it leaves the members' weights out.
      mean, std: float32 [3], RGB in 0..1; the checkpoint's normalization of images.
      batch_size: images per batch, config.eval_batch_size.
      image_size: height and width in pixels.
      dimensions: of an embedding: config.embedding_dim or `Ensemble.dimensions`.
      pca: reduces embeddings to `dimensions`; None if they are not reduced.
      devices: of the mesh, in this process.

    Raises:
      UserError: there is no checkpoint; it is another model's; it lacks the normalization, and the prepared
        dataset is missing too; or there is no PCA with config.embedding_dim dimensions.
    """

    pca: PCA | None

    def __init__(self, workdir: Path | str, config: ConfigDict | None = None, *, reduce: bool = True):
        self.workdir = Path(workdir).expanduser()
        checkpoints, _ = checkpoint.newest(self.workdir)

        def read(step: int) -> tuple[Run, dict[str, Any]]:
            saved = checkpoints.config(step)
            wanted = saved if config is None else config
            saved_config.refuse_other_model(saved, wanted, str(self.workdir))
            run = Run.of(wanted).normalized_by(saved.mean, saved.std)
            return run, checkpoints.variables(step, run.abstract_variables())

        self.step, (run, variables) = checkpoints.newest_whole(read)
        checkpoints.close()
        self.trained = True
        self._set(run, variables)
        config, self.pca = run.config, None
        if reduce and config.embedding_dim:
            self.dimensions = config.embedding_dim
            accepted = self.fingerprint, self.old_fingerprint
            self.pca = pca.load(
                self.workdir, config.embedding, self.dimensions, accepted, mirrored=config.mirrored
            )

    @classmethod
    def pretrained(cls, config: ConfigDict) -> 'Embedder':
        """Returns the backbone of config.weights as an embedder: nothing is trained.

        Args:
          config: see configs/pretrained.py: one member, whose pooled features are the embedding.

        Raises:
          UserError: the config names no weights, they cannot be had, or it asks for what only training gives.
        """
        if config.weights == 'none':
            raise UserError(
                'without --workdir, photographs are embedded by pretrained weights, and config.weights=none '
                'names none; set it to imagenet or to a file, or name the --workdir of a run'
            )
        if config.embedding != 'pooled' or config.ensemble_size != 1 or config.embedding_dim:
            raise UserError(
                'without --workdir, the embedding is the pooled features of one pretrained network: leave '
                'config.embedding, config.ensemble_size and config.embedding_dim as configs/pretrained.py '
                'has them, or name the --workdir of a run'
            )
        return cls._begun(Run.of(config).normalized_by(IMAGENET_MEAN, IMAGENET_STD))

    @classmethod
    def untrained(cls, trained: Run) -> 'Embedder':
        """Returns the backbone that a run began with: one member's pooled features, on the run's devices.

        Raises:
          UserError: the weights that the run began with cannot be had.
        """
        config, devices = trained.config.copy_and_resolve_references(), trained.mesh.size
        config.update(
            ensemble_size=1,
            embedding='pooled',
            embedding_dim=0,
            mesh=(devices, 1),  # one member cannot be shared, its batches can
            eval_batch_size=-(-config.eval_batch_size // devices) * devices,
            batch_size=devices,
        )
        return cls._begun(Run.of(config))

    @classmethod
    def _begun(cls, run: Run) -> 'Embedder':
        """Returns the embedder of the variables that a run of this config begins with."""
        config = run.config
        weights = torchvision.read(config.weights, run.model)
        abstract = run.abstract_variables()
        shardings = jax.tree.map(lambda x: x.sharding, abstract)
        embedder = cls.__new__(cls)
        embedder.workdir, embedder.step, embedder.trained = Path(), 0, False
        embedder.pca = None
        embedder._set(run, torchvision.place(weights, abstract, config.seed, shardings))
        return embedder

    def _set(self, run: Run, variables: dict[str, Any]) -> None:
        """Sets what follows from a run and its variables."""
        config = run.config
        self.run, self.variables = run, variables
        self.mean, self.std = _normalization(config)
        self._embed = step.make_embed_step(self.run.model, self.run.mesh, self.mean, self.std)
        self.batch_size, self.image_size = config.eval_batch_size, config.image_size
        self.fingerprint = fingerprint(self.variables)
        self.old_fingerprint = old_fingerprint(self.variables)
        self.dimensions = run.model.dimensions
        self.devices = list(self.run.mesh.local_devices)

    @property
    def about(self) -> dict[str, Any]:
        """What makes the embeddings, as JSON can hold it; see `search.index.writer.IndexWriter`."""
        return {
            'checkpoint': {
                'workdir': str(self.workdir.resolve()) if self.trained else '',
                'step': self.step,
                'fingerprint': self.fingerprint,
                'old_fingerprint': self.old_fingerprint,
                'pca': self.pca.digest(self.dimensions) if self.pca else '',
                'config': self.run.config.to_dict(),
            },
            'preprocessing': {
                'image_size': self.image_size,
                'mean': self.mean.tolist(),
                'std': self.std.tolist(),
                'resize': 'antialiased bilinear, both sides to image_size',
            },
            'dimensions': self.dimensions,
            'bound': self._bound(),
        }

    def _bound(self) -> float:
        """Returns the greatest absolute value in an embedding (after a PCA: in one of a training image)."""
        if self.pca:
            return float(self.pca.bounds[self.dimensions - 1])
        return self.run.config.ensemble_size**-0.5  # each member's part has length 1 / sqrt(members)

    def start(self, images: np.ndarray) -> jax.Array:
        """Starts to embed uint8 [n <= batch_size, size, size, 3].

        Returns:
          float32 [batch_size, dimensions], rows of unit length, of which the first n count. It is computed
          asynchronously; reading it waits.
        """
        batch = np.zeros((self.batch_size, *images.shape[1:]), np.uint8)
        batch[: len(images)] = images
        return self._start(sharding.put(self.run.mesh, sharding.IMAGES, batch, self.batch_size))

    def _start(self, batch: jax.Array) -> jax.Array:
        embeddings = self._embed(self.variables, batch)
        return self.pca(embeddings, self.dimensions) if self.pca else embeddings

    def images(self, images: np.ndarray) -> np.ndarray:
        """Embeds uint8 [n, size, size, 3]; returns float32 [n, dimensions], rows of unit length."""
        parts = [
            np.asarray(self.start(part))[: len(part)]
            for part in np.split(images, range(self.batch_size, len(images), self.batch_size))
        ]
        return np.concatenate(parts)

    def photographs(self, paths: Iterable[str | Path]) -> np.ndarray:
        """Embeds picture files; returns float32 [files, dimensions], rows of unit length.

        Raises:
          UserError: a file cannot be read as a picture.
        """
        return self.images(photographs.images(paths, self.image_size))

    def split(self, dataset: Dataset, split: str, chosen: np.ndarray | None = None) -> np.ndarray:
        """Embeds all images of a split, or the chosen ones in the given order.

        All hosts must call it, because they share every batch.

        Returns:
          float32 [images, dimensions], rows of unit length.
        """
        return embed_split(self._start, self.run, dataset, split, self.dimensions, chosen, shown=True)


def embed_split(
    start: Callable[[jax.Array], jax.Array],
    run: Run,
    dataset: Dataset,
    split: str,
    dimensions: int,
    chosen: np.ndarray | None = None,
    *,
    shown: bool = False,
) -> np.ndarray:
    """Embeds the images of a split by `start`, which takes a batch on the run's mesh; see `Embedder.split`.

    Args:
      start: uint8 [config.eval_batch_size, size, size, 3] -> float32 [config.eval_batch_size, dimensions].
      run: whose devices share the batches.
      dataset, split, dimensions, chosen: of the images.
      shown: with a bar, on a terminal.
    """
    size, batch_size = len(dataset.labels[split] if chosen is None else chosen), run.config.eval_batch_size
    rows = sharding.local_rows(run.mesh, batch_size)
    batches = dataset.evaluation_batches(split, batch_size, rows, chosen)
    batches = prefetch.read(batches, run.config.stall_minutes)
    embeddings = np.empty((size, dimensions), np.float32)
    named, total, disable = f'embedding {split}', -(-size // batch_size), None if shown else True
    with tqdm(desc=f'{named}, XLA compiles', total=total, unit='batch', disable=disable) as bar:
        for i, batch in enumerate(batches):
            images = sharding.put(run.mesh, sharding.IMAGES, batch['image'], batch_size)
            part = multihost_utils.process_allgather(start(images), tiled=True)
            embeddings[i * batch_size : (i + 1) * batch_size] = part[: size - i * batch_size]
            if i == 0:
                bar.set_description(named)
                progress.restart(bar, 1)
            else:
                bar.update()
    return embeddings


def _normalization(config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and std that the run was trained with: float32 [3] each."""
    if config.mean and config.std:
        return np.asarray(config.mean, np.float32), np.asarray(config.std, np.float32)
    from sreml_jax import data

    metadata = data.prepared(config).info.metadata
    return (
        np.asarray(config.mean or metadata['mean'], np.float32),
        np.asarray(config.std or metadata['std'], np.float32),
    )
