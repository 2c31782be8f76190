"""Evaluation: embeds the test images and measures retrieval."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sreml_jax.data import prefetch
from sreml_jax.data.dataset import Dataset
from sreml_jax.embedder import Embedder
from sreml_jax.evaluation import analysis, identification, pictures, result
from sreml_jax.evaluation.result import Result
from sreml_jax.retrieval import metrics, recall
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.run import Run
from sreml_jax.runtime import hosts

# Raw pixels are a baseline up to this image size; larger vectors would need too much memory.
RAW_PIXELS_SIZE = 64


def evaluate(
    config: ConfigDict, workdir: Path, dataset: Dataset, *, thorough: bool = False, rerank: bool = False
) -> Result:
    """Evaluates the newest checkpoint of `workdir`.

    Prints the table of Recall@K, writes results.json and retrievals.png.

    Args:
      config: of the run.
      workdir: of the run.
      dataset: its test images are embedded.
      thorough: also report MAP@R and R-precision, Recall@1 by the number of members (members_curve.png), and
        Recall@1 by dimensions and storage; writes the PCA.
      rerank: with `thorough`, also by the order of `reranking.rerank`.

    Raises:
      UserError: there is no checkpoint, it is another model's, or there are too few training images for
        config.embedding_dim.
    """
    sample = analysis.training_sample(config, dataset) if thorough else None
    embedder = Embedder(workdir, config, reduce=False)
    run, splits = embedder.run, dataset.evaluation_splits
    embeddings = {split: embedder.split(dataset, split) for split in dict.fromkeys(splits)}
    results = [score(run, dataset, embeddings, run.name)]
    more: dict[str, Any] = {}
    if config.image_size <= RAW_PIXELS_SIZE:
        pixels = {split: raw_pixels(run, dataset, split) for split in dict.fromkeys(splits)}
        results.append(score(run, dataset, pixels, 'raw pixels'))
        more['raw_pixels_recall'] = {str(k): v for k, v in results[1].recall.items()}
    if hosts.is_first():
        print(result.recall_table(*results), flush=True)
    if sample is not None:
        training = embedder.split(dataset, 'train', sample)
        more |= analysis.analyze(embedder, dataset, embeddings, training)
        more |= identification.measure(embedder, dataset, embeddings, rerank=rerank)
    if hosts.is_first():
        query, gallery = (embeddings[split] for split in splits)
        written, picture = workdir / 'results.json', workdir / 'retrievals.png'
        result.write_results(written, results[0], step=embedder.step, **more)
        pictures.save_retrievals(picture, dataset, query, gallery, devices=embedder.devices)
        print(f'Wrote {written} and {picture}')
    return results[0]


def raw_pixels(run: Run, dataset: Dataset, split: str) -> np.ndarray:
    """Returns the pixels of a split's images as embeddings; see `metrics.raw_pixels`."""
    batches = dataset.evaluation_batches(split, run.config.eval_batch_size)
    batches = prefetch.read(batches, run.config.stall_minutes)
    return np.concatenate([metrics.raw_pixels(batch['image'][batch['mask']]) for batch in batches])


def score(run: Run, dataset: Dataset, embeddings: dict[str, np.ndarray], name: str) -> Result:
    """Measures the recall of embeddings, split -> [images, d], by the dataset's protocol."""
    query, gallery = (embeddings[split] for split in dataset.evaluation_splits)
    protocol = Protocol.of(dataset)
    ranks = recall.ranks(query, gallery, protocol, devices=list(run.mesh.local_devices))
    return Result.of(
        ranks,
        run.config.recalls,
        protocol,
        dataset=dataset.name,
        crop=run.config.crop_type,
        embedding=name,
        notes=dataset.notes,
    )
