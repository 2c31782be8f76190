"""Evaluation: restore, embed the test images, retrieve, and tell."""

from pathlib import Path
from typing import Any

import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from tqdm import tqdm

from sreml_jax import checkpoint, hosts, pictures, report, study
from sreml_jax import config as configs
from sreml_jax import mesh as meshes
from sreml_jax.data import ahead
from sreml_jax.data.dataset import Dataset
from sreml_jax.learning import step
from sreml_jax.retrieval import metrics, recall
from sreml_jax.run import Run, fingerprint

# Raw pixels are told beside the model's embedding up to this size: above it their vectors outgrow memory.
RAW_PIXELS_SIZE = 64


def evaluate(config: ConfigDict, workdir: Path, dataset: Dataset, *, thorough: bool = False) -> report.Result:
    """Evaluates the newest checkpoint of `workdir`: prints the table, writes results.json and retrievals.png.

    If `thorough`, also MAP@R and R-precision; Recall@1 by the number of members, and members_curve.png;
    Recall@1 by how embeddings are shrunk and stored, and what shrinks them, shrinking.npz.

    Raises:
      UserError: there is no checkpoint, or it is another model's; or config.embedding_dim is too much for the
        training images.
    """
    sample = study.training_sample(config, dataset) if thorough else None
    run = Run.of(config)
    checkpoints, _ = checkpoint.newest(workdir)
    steps_per_epoch = max(1, dataset.steps_per_epoch(config.batch_size))
    abstract = run.abstract_state(run.adam(steps_per_epoch))

    def read(step: int) -> dict[str, Any]:
        configs.refuse_other_model(checkpoints.config(step), config, str(workdir))
        return checkpoints.variables(step, abstract)

    newest, variables = checkpoints.newest_whole(read)
    checkpoints.close()

    splits = dict.fromkeys(dataset.evaluation_splits)
    embeddings = {split: embed_split(run, variables, dataset, split) for split in splits}
    result = score(run, dataset, embeddings, run.name)
    results = [result]
    more: dict[str, Any] = {}
    if config.image_size <= RAW_PIXELS_SIZE:
        pixels = {split: raw_pixels(run, dataset, split) for split in splits}
        results.append(score(run, dataset, pixels, 'raw pixels'))
        more['raw_pixels_recall'] = {str(k): v for k, v in results[1].recall.items()}
    if hosts.is_first():
        print(report.recall_table(*results), flush=True)
    if thorough:
        training = embed_split(run, variables, dataset, 'train', sample)
        more |= study.study(run, dataset, embeddings, training, workdir, fingerprint(variables))
    if not hosts.is_first():
        return result
    report.write_results(workdir / 'results.json', result, step=newest, **more)
    query, gallery = dataset.evaluation_splits
    picture = workdir / 'retrievals.png'
    pictures.save_retrievals(
        picture, dataset, embeddings[query], embeddings[gallery], devices=list(run.mesh.local_devices)
    )
    print(f'{workdir / "results.json"} holds the figures, {picture} shows what was retrieved')
    return result


def embed_split(
    run: Run, variables: dict[str, Any], dataset: Dataset, split: str, chosen: np.ndarray | None = None
) -> np.ndarray:
    """Returns the embeddings of all images of a split, or of the chosen ones in their order.

    They are float32 [images, model.dimensions], rows of unit length.
    """
    batch_size = run.config.eval_batch_size
    embed = step.make_embed_step(run.model, run.mesh, dataset.mean, dataset.std)
    size = len(dataset.labels[split] if chosen is None else chosen)
    rows = meshes.local_rows(run.mesh, batch_size)
    embeddings = np.empty((size, run.model.dimensions), np.float32)
    batches = dataset.evaluation_batches(split, batch_size, rows, chosen)
    batches = ahead.read(batches, run.config.stall_minutes)
    number = -(-size // batch_size)
    for i, batch in enumerate(tqdm(batches, f'embedding {split}', number, unit='batch', disable=None)):
        images = meshes.put(run.mesh, meshes.IMAGES, batch['image'], batch_size)
        part = multihost_utils.process_allgather(embed(variables, images), tiled=True)
        embeddings[i * batch_size : (i + 1) * batch_size] = part[: size - i * batch_size]
    return embeddings


def raw_pixels(run: Run, dataset: Dataset, split: str) -> np.ndarray:
    """Returns the images of a split themselves as embeddings, see `metrics.raw_pixels`."""
    batches = dataset.evaluation_batches(split, run.config.eval_batch_size)
    batches = ahead.read(batches, run.config.stall_minutes)
    return np.concatenate([metrics.raw_pixels(batch['image'][batch['mask']]) for batch in batches])


def score(run: Run, dataset: Dataset, embeddings: dict[str, np.ndarray], name: str) -> report.Result:
    """Returns the recall of embeddings, split -> [images, d], by the dataset's protocol."""
    query, gallery = dataset.evaluation_splits
    labels = {'query_labels': dataset.labels[query], 'gallery_labels': dataset.labels[gallery]}
    same = query == gallery
    ranks = recall.ranks(
        embeddings[query],
        embeddings[gallery],
        *labels.values(),
        same=same,
        devices=list(run.mesh.local_devices),
    )
    return report.Result.of(
        ranks,
        run.config.recalls,
        dataset=dataset.name,
        crop=run.config.crop_type,
        embedding=name,
        same=same,
        notes=dataset.notes,
        **labels,
    )
