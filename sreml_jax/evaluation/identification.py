"""How well one photograph is identified: by the vote of its neighbors, and whether its class is known."""

from typing import Any

import numpy as np
from jax.experimental import multihost_utils

from sreml_jax.data.dataset import Dataset
from sreml_jax.drawing import thresholds as drawing
from sreml_jax.embedder import Embedder
from sreml_jax.retrieval import pca, threshold_file, thresholds
from sreml_jax.retrieval.nearest import nearest
from sreml_jax.retrieval.protocol import Protocol
from sreml_jax.retrieval.thresholds import Thresholds
from sreml_jax.retrieval.vote import vote
from sreml_jax.runtime import hosts

VOTERS = (1, 3, 5, 10, 20)


def measure(embedder: Embedder, dataset: Dataset, embeddings: dict[str, np.ndarray]) -> dict[str, Any]:
    """Prints votes and thresholds of a checkpoint; writes thresholds.json and .png into its workdir.

    If config.embedding_dim is set, the thresholds of the reduced embedding are stored too: its PCA must lie
    in the workdir.

    Args:
      embedder: of the checkpoint, which reduces nothing.
      dataset: gives the protocol.
      embeddings: split -> float32 [images, d], of the evaluation splits.

    Returns:
      Further entries of results.json.
    """
    protocol, config = Protocol.of(dataset), embedder.run.config
    query, gallery = (embeddings[split] for split in dataset.evaluation_splits)
    shares = votes(query, gallery, protocol, devices=embedder.devices)
    best = thresholds.best(query, gallery, protocol, devices=embedder.devices)
    found = thresholds.calibrate(best, protocol)
    reduced = None
    if config.embedding_dim and found:
        multihost_utils.sync_global_devices('the PCA is written')
        dimensions = config.embedding_dim
        accepted = embedder.fingerprint, embedder.old_fingerprint
        projection = pca.load(
            embedder.workdir, config.embedding, dimensions, accepted, mirrored=config.mirrored
        )
        short = np.asarray(projection(query, dimensions))
        others = short if protocol.same else np.asarray(projection(gallery, dimensions))
        reduced = thresholds.calibrate(
            thresholds.best(short, others, protocol, devices=embedder.devices), protocol
        )
    if hosts.is_first():
        print(votes_line(shares), flush=True)
        if found:
            print(thresholds_table(found, protocol.same), flush=True)
            for made, dimensions in ((found, query.shape[1]), (reduced, config.embedding_dim)):
                if made:
                    place = embedder.workdir, embedder.fingerprint, config.embedding, dimensions
                    threshold_file.save(*place, made, mirrored=config.mirrored)
            picture = embedder.workdir / 'thresholds.png'
            drawing.save(picture, *thresholds.curves(best, protocol), found.equal.threshold)
    entries: dict[str, Any] = {'votes': {str(k): share for k, share in shares.items()}}
    if found:
        entries['thresholds'] = threshold_file.as_json(found)
    return entries


def votes(query: np.ndarray, gallery: np.ndarray, protocol: Protocol, **more: Any) -> dict[int, float]:
    """Returns, for each k of VOTERS, the share of queries whose k neighbors vote for the right class.

    Args: see `nearest`.
    """
    found, similarities = nearest(query, gallery, max(VOTERS), same=protocol.same, **more)
    of_query, of_gallery = protocol.numbered
    shares = {}
    for k in VOTERS:
        if k <= found.shape[1]:
            winners, _ = vote(of_gallery[found[:, :k]], similarities[:, :k])
            shares[k] = float(np.mean(winners == of_query))
    return shares


def votes_line(shares: dict[int, float]) -> str:
    """Returns one line: the share of right classes by the number of neighbors that vote."""
    parts = ', '.join(f'of {k}: {100 * share:.2f}%' for k, share in shares.items())
    return f'the right class by the vote of the nearest, {parts}' if parts else 'no neighbors to vote'


def thresholds_table(found: Thresholds, same: bool) -> str:
    """Returns the table of error rates by threshold, and where it comes from."""
    lines = ['', 'Similarity  False accepts  False rejects  Right if accepted']
    for rates in sorted([*found.table, found.equal], key=lambda rates: -rates.threshold):
        right = '/' if rates.right is None else f'{100 * rates.right:.2f}%'
        mark = '  search and serve: less is "unknown"' if rates is found.equal else ''
        lines.append(
            f'{rates.threshold:10.4f}  {100 * rates.false_accepts:12.2f}%  '
            f'{100 * rates.false_rejects:12.2f}%  {right:>17}{mark}'
        )
    images = found.gallery - same
    return '\n'.join(
        [
            *lines,
            f'of {found.queries:,} queries of {found.classes:,} classes, each against {images:,} images; '
            'the rates are of classes that did not choose the threshold',
            'an index of more images has more false accepts',
            '',
        ]
    )
