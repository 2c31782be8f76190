"""What --mode=eval adds to the table: MAP@R, and Recall@1 by members, dimensions and storage."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sreml_jax.data.dataset import Dataset
from sreml_jax.drawing import members_curve as drawing
from sreml_jax.embedder import Embedder
from sreml_jax.evaluation import result
from sreml_jax.retrieval import members_curve as curves
from sreml_jax.retrieval import metrics, pca, quantization
from sreml_jax.retrieval.pca import PCA, Reduced
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.retrieval.recall import ranks, recall_at
from sreml_jax.runtime import hosts
from sreml_jax.runtime.errors import UserError


def training_sample(config: ConfigDict, dataset: Dataset) -> np.ndarray:
    """Draws the training images that the PCA is fitted on: int [at most pca.IMAGES], ascending.

    Raises:
      UserError: there are too few for config.embedding_dim.
    """
    images = len(dataset.labels['train'])
    if config.embedding_dim >= min(images, pca.IMAGES):
        raise UserError(
            f'config.embedding_dim={config.embedding_dim} must be less than the {images:,} training '
            f'images, and than {pca.IMAGES:,}'
        )
    if images <= pca.IMAGES:
        return np.arange(images)
    return np.sort(np.random.default_rng(0).choice(images, pca.IMAGES, replace=False))


def analyze(
    embedder: Embedder, dataset: Dataset, embeddings: dict[str, np.ndarray], training: np.ndarray
) -> dict[str, Any]:
    """Prints the further metrics of a checkpoint; writes members_curve.png and the PCA into its workdir.

    Args:
      embedder: of the checkpoint.
      dataset: gives the protocol.
      embeddings: split -> float32 [images, d], of the evaluation splits.
      training: float32 [images, d], of the training images.

    Returns:
      Further entries of results.json.
    """
    query, gallery = (embeddings[split] for split in dataset.evaluation_splits)
    protocol, devices = Protocol.of(dataset), embedder.devices
    config, members = embedder.run.config, embedder.run.config.ensemble_size

    correct = metrics.correct_neighbors(query, gallery, protocol, devices=devices)
    map_at_r = metrics.map_at_r(correct, protocol.relevant)
    r_precision = metrics.r_precision(correct, protocol.relevant)
    curve = (
        curves.members_curve(query, gallery, protocol, members=members, devices=devices)
        if members > 1
        else []
    )
    wanted = {*pca.DIMENSIONS, config.embedding_dim} - {0}
    fewer = sorted((n for n in wanted if n < min(training.shape)), reverse=True)
    projection = _projection(embedder, training, fewer[0]) if fewer else None

    classes = curves.sample(protocol, np.random.default_rng(0))
    of_query, of_gallery, sampled = protocol.of_classes(classes)
    query, gallery = (
        part if chosen.all() else part[chosen] for part, chosen in ((query, of_query), (gallery, of_gallery))
    )

    def recall(change: Callable[[np.ndarray], np.ndarray]) -> float:
        changed = change(query)
        others = changed if sampled.same else change(gallery)
        return recall_at(ranks(changed, others, sampled, devices=devices), [1])[1]

    reduced = _reduced(recall, projection, [query.shape[1], *fewer], members**-0.5)
    if hosts.is_first():
        print(f'MAP@R {100 * map_at_r:.2f}%, R-precision {100 * r_precision:.2f}%', flush=True)
        if curve:
            print(result.members_table(curve), flush=True)
            numbers, _, means, deviations = zip(*curve, strict=True)
            drawing.save(embedder.workdir / 'members_curve.png', numbers, means, deviations)
        if projection:
            pca.save(
                *(embedder.workdir, config.embedding, projection, embedder.fingerprint),
                mirrored=config.mirrored,
            )
        print(result.dimensions_table(reduced), flush=True)
    return {
        'map_at_r': map_at_r,
        'r_precision': r_precision,
        'members_curve': [point._asdict() for point in curve],
        'shrunk': [row._asdict() for row in reduced],
    }


def _projection(embedder: Embedder, training: np.ndarray, dimensions: int) -> PCA:
    """Returns the checkpoint's PCA, which indexes may have been made by; fits one if there is none.

    Args: see `analyze`.
    """
    config, accepted = embedder.run.config, (embedder.fingerprint, embedder.old_fingerprint)
    try:
        return pca.load(embedder.workdir, config.embedding, dimensions, accepted, mirrored=config.mirrored)
    except UserError:  # missing, damaged, of another checkpoint, or too short
        return pca.fit(training, dimensions)


def _reduced(
    recall: Callable[[Callable[[np.ndarray], np.ndarray]], float],
    projection: PCA | None,
    dimensions: list[int],
    bound: float,
) -> list[Reduced]:
    """Returns Recall@1 by dimensions, each stored as float32 and as int8.

    Args:
      recall: takes a function that changes embeddings, and returns the recall of the changed ones.
      projection: reduces them; None if only the full embedding is wanted.
      dimensions: the full embedding's first, then fewer.
      bound: the greatest absolute value in a full embedding.
    """
    rows = []
    for width in dimensions:
        reduces = projection if width < dimensions[0] else None
        limit = float(reduces.bounds[width - 1]) if reduces else bound
        for storage in ('float32', 'int8'):
            scale = quantization.scale_of(storage, limit)

            def change(part, reduces=reduces, width=width, storage=storage, scale=scale):
                if reduces:  # to one shape for all dimensions, which compiles once
                    part = np.asarray(reduces.only(width)(part, dimensions[1]))
                return quantization.decode(quantization.encode(part, storage, scale), scale)

            size = width * np.dtype(storage).itemsize
            rows.append(Reduced(width, storage, size, recall(change)))
    return rows
