"""What --mode=eval tells beyond the table: MAP@R, fewer members, fewer numbers and bytes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sreml_jax import hosts, pictures, report
from sreml_jax.data.dataset import Dataset
from sreml_jax.errors import UserError
from sreml_jax.index import storage
from sreml_jax.retrieval import members_curve as curves
from sreml_jax.retrieval import metrics, shrinking
from sreml_jax.retrieval.recall import ranks, recall_at
from sreml_jax.retrieval.shrinking import Shrinking, Shrunk
from sreml_jax.run import Run


def training_sample(config: ConfigDict, dataset: Dataset) -> np.ndarray:
    """Draws the training images that the shrinking is fitted on, int [at most shrinking.IMAGES], in order.

    Raises:
      UserError: there are not more of them than config.embedding_dim.
    """
    images = len(dataset.labels['train'])
    if config.embedding_dim >= min(images, shrinking.IMAGES):
        raise UserError(
            f'config.embedding_dim={config.embedding_dim} must be less than the {images:,} training '
            f'images, and than {shrinking.IMAGES:,}'
        )
    if images <= shrinking.IMAGES:
        return np.arange(images)
    return np.sort(np.random.default_rng(0).choice(images, shrinking.IMAGES, replace=False))


def study(
    run: Run,
    dataset: Dataset,
    embeddings: dict[str, np.ndarray],
    training: np.ndarray,
    workdir: Path,
    fingerprint: str,
) -> dict[str, Any]:
    """Prints more of one checkpoint, and writes members_curve.png and the file of `shrinking.save`.

    Args:
      run: of the checkpoint.
      dataset: whose protocol is followed.
      embeddings: split -> float32 [images, d], of the evaluation splits.
      training: float32 [images, d], of the training images.
      workdir: of the run.
      fingerprint: of the checkpoint.

    Returns:
      What results.json is to hold of it.
    """
    splits = dataset.evaluation_splits
    query, gallery = (embeddings[split] for split in splits)
    query_labels, gallery_labels = labels = [dataset.labels[split] for split in splits]
    options: dict[str, Any] = {'same': splits[0] == splits[1], 'devices': list(run.mesh.local_devices)}
    config, members = run.config, run.config.ensemble_size

    correct, relevant = metrics.correct_neighbours(query, gallery, *labels, **options)
    map_at_r, r_precision = metrics.map_at_r(correct, relevant), metrics.r_precision(correct, relevant)
    curve = curves.members_curve(query, gallery, *labels, members=members, **options) if members > 1 else []
    wanted = {*shrinking.DIMENSIONS, config.embedding_dim} - {0}
    numbers = sorted((n for n in wanted if n < min(training.shape)), reverse=True)
    short = shrinking.fit(training, numbers[0]) if numbers else None

    kept = curves.sample(query_labels, gallery_labels, options['same'], np.random.default_rng(0))
    some = [np.isin(of_split, kept) for of_split in labels]
    parts = [
        part if chosen.all() else part[chosen] for part, chosen in zip((query, gallery), some, strict=True)
    ]
    of_parts = [of_split[chosen] for of_split, chosen in zip(labels, some, strict=True)]

    def recall(change: Callable[[np.ndarray], np.ndarray]) -> float:
        one = change(parts[0])
        other = one if options['same'] else change(parts[1])
        return recall_at(ranks(one, other, *of_parts, **options), [1])[1]

    shrunk = _shrunk(recall, short, numbers, query.shape[1], members**-0.5)
    if hosts.is_first():
        print(f'MAP@R {100 * map_at_r:.2f}%, R-precision {100 * r_precision:.2f}%', flush=True)
        if curve:
            print(report.members_table(curve), flush=True)
            pictures.save_members_curve(workdir / 'members_curve.png', curve)
        if short:
            shrinking.save(workdir, config.embedding, short, fingerprint)
        print(report.shrinking_table(shrunk), flush=True)
    return {
        'map_at_r': map_at_r,
        'r_precision': r_precision,
        'members_curve': [point._asdict() for point in curve],
        'shrunk': [row._asdict() for row in shrunk],
    }


def _shrunk(
    recall: Callable[[Callable[[np.ndarray], np.ndarray]], float],
    short: Shrinking | None,
    numbers: list[int],
    whole: int,
    bound: float,
) -> list[Shrunk]:
    """Returns Recall@1 of embeddings of all numbers and of fewer, as they are and as int8.

    Args:
      recall: of embeddings that a function has changed.
      short: what shrinks them; None where there is nothing to fit it on.
      numbers: to which.
      whole: numbers of an embedding.
      bound: that none of them exceeds.
    """
    rows = []
    for dimensions in (whole, *numbers):
        limit = float(short.bounds[dimensions - 1]) if short and dimensions < whole else bound
        for stored in ('float32', 'int8'):

            def change(part, dimensions=dimensions, stored=stored, limit=limit):
                if short and dimensions < whole:
                    part = np.asarray(short(part, dimensions))
                scale = storage.scale_of(stored, limit)
                return storage.decode(storage.encode(part, stored, scale), scale)

            size = dimensions * np.dtype(stored).itemsize
            rows.append(Shrunk(dimensions, stored, size, recall(change)))
    return rows
