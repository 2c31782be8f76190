"""A trained run as a function from photographs to embeddings."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from sreml_jax import checkpoint
from sreml_jax import config as configs
from sreml_jax import mesh as meshes
from sreml_jax.data import photographs
from sreml_jax.errors import UserError
from sreml_jax.learning import step
from sreml_jax.retrieval import shrinking
from sreml_jax.run import Run, fingerprint


class Embedder:
    """The newest checkpoint of a run on the devices of its mesh.

    Args:
      workdir: of the run.
      config: the run's own where not given; another one must be of the same model.

    Attributes:
      run, variables: the parts of the run, and its weights and statistics on the devices.
      batch_size: images at a time, config.eval_batch_size.
      image_size: pixels of both sides.
      dimensions: of an embedding: `Ensemble.dimensions`, or config.embedding_dim.
      shrinking: what makes them so few; None where it is all of them.
      about: what makes the embeddings, as `index.unfinished.Unfinished` wants it.

    Raises:
      UserError: there is no checkpoint, it is another model's, or it does not say with which colours it was
        trained and its dataset is not there to measure them, or nothing is there to shrink its embeddings.
    """

    def __init__(self, workdir: Path | str, config: ConfigDict | None = None):
        workdir = Path(workdir).expanduser()
        if jax.process_count() > 1:
            raise UserError('photographs are embedded by one process, on the devices of one host; start one')
        checkpoints, _ = checkpoint.newest(workdir)

        def read(step: int) -> tuple[ConfigDict, Run, dict[str, Any]]:
            saved = checkpoints.config(step)
            wanted = saved if config is None else config
            configs.refuse_other_model(saved, wanted, str(workdir))
            run = Run.of(wanted)
            return wanted, run, checkpoints.variables(step, run.abstract_state(run.adam(1)))

        newest, (made_by, self.run, self.variables) = checkpoints.newest_whole(read)
        checkpoints.close()
        mean, std = _colours(made_by)
        self._embed = step.make_embed_step(self.run.model, self.run.mesh, mean, std)
        self.batch_size, self.image_size = made_by.eval_batch_size, made_by.image_size
        self.dimensions = made_by.embedding_dim or self.run.model.dimensions
        identity = fingerprint(self.variables)
        self.shrinking = None
        if made_by.embedding_dim:
            self.shrinking = shrinking.load(workdir, made_by.embedding, self.dimensions, identity)
        self.devices = list(self.run.mesh.devices.flat)
        self.about: dict[str, Any] = {
            'checkpoint': {
                'workdir': str(workdir.resolve()),
                'step': newest,
                'fingerprint': identity,
                'config': made_by.to_dict(),
            },
            'preprocessing': {
                'image_size': made_by.image_size,
                'mean': [float(value) for value in mean],
                'std': [float(value) for value in std],
                'resize': 'antialiased bilinear, both sides to image_size',
            },
            'dimensions': self.dimensions,
            'bound': self._bound(),
        }

    def start(self, images: np.ndarray) -> jax.Array:
        """Begins to embed uint8 [n <= batch_size, size, size, 3].

        Returns:
          float32 [batch_size, dimensions], of which the first n rows count, of unit length. It is computed
          while the caller goes on, until it is read.
        """
        batch = np.zeros((self.batch_size, *images.shape[1:]), np.uint8)
        batch[: len(images)] = images
        placed = meshes.put(self.run.mesh, meshes.IMAGES, batch, self.batch_size)
        embeddings = self._embed(self.variables, placed)
        return self.shrinking(embeddings, self.dimensions) if self.shrinking else embeddings

    def images(self, images: np.ndarray) -> np.ndarray:
        """Returns the embeddings, float32 [n, dimensions] of unit length, of uint8 [n, size, size, 3]."""
        parts = [
            np.asarray(self.start(part))[: len(part)]
            for part in np.split(images, range(self.batch_size, len(images), self.batch_size))
        ]
        return np.concatenate(parts)

    def _bound(self) -> float:
        """Returns what no number in an embedding exceeds; of shrunk ones, in one of a training image.

        A member's part is of length 1/sqrt(members), and so no number in it is greater.
        """
        if self.shrinking:
            return float(self.shrinking.bounds[self.dimensions - 1])
        return self.run.config.ensemble_size**-0.5

    def photographs(self, paths: Iterable[str | Path]) -> np.ndarray:
        """Returns the embeddings of picture files, likewise; raises UserError for one that is no picture."""
        return self.images(photographs.images(paths, self.image_size))


def _colours(config: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and deviation that the run was trained with, float32 [3]."""
    if config.mean and config.std:
        return np.asarray(config.mean, np.float32), np.asarray(config.std, np.float32)
    from sreml_jax import data

    metadata = data.prepared(config).info.metadata
    return (
        np.asarray(config.mean or metadata['mean'], np.float32),
        np.asarray(config.std or metadata['std'], np.float32),
    )
