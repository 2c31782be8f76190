"""Evaluation: embeds the test images and measures retrieval."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sreml_jax.data.dataset import Dataset
from sreml_jax.embedder import Embedder
from sreml_jax.evaluation import analysis, baselines, identification, pictures, result
from sreml_jax.evaluation.result import Result
from sreml_jax.runtime import hosts


def evaluate(config: ConfigDict, workdir: Path, dataset: Dataset, *, thorough: bool = False) -> Result:
    """Evaluates the newest checkpoint of `workdir`.

    Prints the table of Recall@K, with raw pixels and the untrained backbone beside the model; writes
    results.json and retrievals.png. If the model loses to one of them, the last line says so.

    Args:
      config: of the run.
      workdir: of the run.
      dataset: its test images are embedded.
      thorough: also report MAP@R and R-precision, Recall@1 by the number of members (members_curve.png), and
        Recall@1 by dimensions and storage; writes the PCA.

    Raises:
      UserError: there is no checkpoint, it is another model's, or there are too few training images for
        config.embedding_dim.
    """
    sample = analysis.training_sample(config, dataset) if thorough else None
    embedder = Embedder(workdir, config, reduce=False)
    run, splits = embedder.run, dataset.evaluation_splits
    embeddings = {split: embedder.split(dataset, split) for split in dict.fromkeys(splits)}
    own = baselines.score(run, dataset, embeddings, run.name)
    others = baselines.measure(run, dataset)
    more: dict[str, Any] = {'baselines': {x.embedding: result.by_name(x.recall) for x in others}}
    if hosts.is_first():
        print(result.recall_table(own, *others), flush=True)
    if sample is not None:
        training = embedder.split(dataset, 'train', sample)
        more |= analysis.analyze(embedder, dataset, embeddings, training)
        more |= identification.measure(embedder, dataset, embeddings)
    if hosts.is_first():
        query, gallery = (embeddings[split] for split in splits)
        written, picture = workdir / 'results.json', workdir / 'retrievals.png'
        result.write_results(written, own, step=embedder.step, **more)
        pictures.save_retrievals(picture, dataset, query, gallery, devices=embedder.devices)
        print(f'Wrote {written} and {picture}')
        if advice := baselines.advice(run, own, others):
            print(advice)
    return own
