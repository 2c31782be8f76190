"""What a model is compared with: raw pixels, and its own backbone before any training."""

import logging
from collections.abc import Sequence

import numpy as np
from PIL import Image

from sreml_jax.data import prefetch
from sreml_jax.data.dataset import Dataset
from sreml_jax.embedder import Embedder
from sreml_jax.evaluation.result import Result
from sreml_jax.retrieval import metrics, recall
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.run import Run
from sreml_jax.runtime.errors import UserError

log = logging.getLogger(__name__)

# Pixels of both sides. Images up to the first are compared as they are, larger ones reduced to the second:
# embeddings of all their pixels would take too much memory.
WHOLE_SIDE, REDUCED_SIDE = 64, 32


def measure(run: Run, dataset: Dataset) -> list[Result]:
    """Returns the recall of raw pixels and of the untrained backbone on a dataset's evaluation splits.

    The second one is missing, which the log says, if the weights that the run began with are not there.
    """
    size, splits = run.config.image_size, dict.fromkeys(dataset.evaluation_splits)
    name = 'raw pixels' if size <= WHOLE_SIDE else f'raw pixels {REDUCED_SIDE}x{REDUCED_SIDE}'
    found = [score(run, dataset, {split: raw_pixels(run, dataset, split) for split in splits}, name)]
    try:
        embedder = Embedder.untrained(run)
    except UserError as error:
        log.warning('the table lacks the untrained backbone: %s', error)
        return found
    embeddings = {split: embedder.split(dataset, split) for split in splits}
    kind = 'random' if run.config.weights == 'none' else 'untrained'
    return [*found, score(run, dataset, embeddings, f'{kind} {run.config.model_type}, pooled')]


def raw_pixels(run: Run, dataset: Dataset, split: str) -> np.ndarray:
    """Returns the pixels of a split's images as embeddings; see `metrics.raw_pixels`."""
    batches = dataset.evaluation_batches(split, run.config.eval_batch_size)
    batches = prefetch.read(batches, run.config.stall_minutes)
    return np.concatenate([metrics.raw_pixels(_reduced(batch['image'][batch['mask']])) for batch in batches])


def _reduced(images: np.ndarray) -> np.ndarray:
    """Returns uint8 [n, H, W, 3], reduced to REDUCED_SIDE pixels if larger than WHOLE_SIDE."""
    if max(images.shape[1:3]) <= WHOLE_SIDE:
        return images
    size = (REDUCED_SIDE, REDUCED_SIDE)
    return np.stack([np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BILINEAR)) for x in images])


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


def advice(run: Run, model: Result, others: Sequence[Result]) -> str:
    """Returns what to try if a baseline finds more at the smallest K than the model, else ''."""
    config, k = run.config, min(model.recall)
    best = max(others, key=lambda other: other.recall[k])
    if best.recall[k] <= model.recall[k]:
        return ''
    steps = []
    if config.embedding == 'logits':
        steps.append('--mode=eval --config.embedding=pooled (the same run by its features)')
    if config.weights == 'none':
        steps.append('a new run from pretrained weights (--config.weights=imagenet)')
    steps.append('more --config.num_epochs')
    if config.weights != 'none':
        steps.append('a lower --config.learning_rate in a new run')
    return (
        f'the model loses: {best.embedding} finds {100 * best.recall[k]:.2f}% at K={k}, the model '
        f'{100 * model.recall[k]:.2f}%; try {", ".join(steps)}'
    )
