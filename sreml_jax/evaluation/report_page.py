"""--mode=report: a trained run on one page, report.html."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sreml_jax.configs import default
from sreml_jax.data.dataset import Dataset
from sreml_jax.drawing import curves, embedding_map, template, thumbnails
from sreml_jax.embedder import Embedder
from sreml_jax.evaluation import result
from sreml_jax.evaluation.error_analysis import Retrieved
from sreml_jax.retrieval.recall import NO_MATCH
from sreml_jax.runtime import files
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.versions import installed
from sreml_jax.training import checkpoint, saved_config

PAGE = 'report.html'
_CLASSES, _QUERIES, _NEIGHBORS = 12, 6, 8  # shown
_TILE, _POINT = 128, 64  # pixels at most: of a picture, and of one on the map


def write(embedder: Embedder, dataset: Dataset) -> Path:
    """Writes report.html into the run's workdir: one file that needs no network and no other file.

    It shows the workdir's metrics.jsonl, results.json and members_curve.png, if they exist.

    Args:
      embedder: of the newest checkpoint.
      dataset: its test images are embedded.

    Returns:
      The path of the page, which is replaced atomically.

    Raises:
      UserError: the optional dependencies `report` are not installed.
    """
    check_installed()
    workdir, step = embedder.workdir, embedder.step
    splits = dataset.evaluation_splits
    embeddings = {split: embedder.split(dataset, split) for split in dict.fromkeys(splits)}
    query, gallery = (embeddings[split] for split in splits)
    retrieved = Retrieved.of(dataset, query, gallery, _NEIGHBORS, embedder.devices)
    pictures, shown = _Pictures(dataset), _result(embedder, dataset, retrieved)
    page = template.render(
        'report.html',
        name=workdir.resolve().name,
        step=step,
        result=shown,
        **_from_evaluation(workdir, step, shown),
        curves=curves.read(workdir / 'metrics.jsonl'),
        hardest=_hardest(retrieved, pictures),
        best=_rows(retrieved, retrieved.best(_QUERIES), pictures),
        worst=_rows(retrieved, retrieved.worst(_QUERIES), pictures),
        map=_map(query, retrieved, pictures),
        config=_config(embedder),
        versions=_versions(workdir, step),
    )
    path = workdir / PAGE
    with files.atomic_write(path) as temporary:
        temporary.write_text(page)
    return path


class _Pictures:
    """Pictures and names of the images of the evaluation splits."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset
        self.query_split, self.gallery_split = dataset.evaluation_splits

    def of(self, split: str, indices: Sequence[int] | np.ndarray, side: int = _TILE) -> list[str]:
        """Returns data URIs of these images."""
        return [thumbnails.of_array(image, side) for image in self.arrays(split, np.asarray(indices))]

    def arrays(self, split: str, indices: np.ndarray) -> list[np.ndarray]:
        """Returns uint8 [height, width, 3] of these images."""
        return [image for batch in self._dataset.images(split, indices, 64) for image in batch]

    def name(self, label: int, split: str | None = None) -> str:
        """Returns the readable name of a class of the gallery, or of another split."""
        return self._dataset.class_names[split or self.gallery_split][int(label)].replace('_', ' ')


def check_installed() -> None:
    """Raises UserError if the optional dependencies `report` are not installed."""
    try:
        import jinja2  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise UserError(f"--mode=report needs {error.name}: pip install 'sreml_jax[report]'") from None


def _result(embedder: Embedder, dataset: Dataset, retrieved: Retrieved) -> result.Result:
    config = embedder.run.config
    return result.Result.of(
        retrieved.ranks,
        config.recalls,
        retrieved.protocol,
        dataset=dataset.name,
        crop=config.crop_type,
        embedding=embedder.run.name,
        notes=dataset.notes,
    )


def evaluated(workdir: Path, step: int, embedding: str) -> bool:
    """Whether results.json has all that the page shows of this step and embedding (see `Run.name`)."""
    return 'map_at_r' in _results(workdir, step, embedding)


def _results(workdir: Path, step: int, embedding: str) -> dict[str, Any]:
    """Returns what results.json holds, if that belongs to this step and embedding, else {}."""
    try:
        results = json.loads((workdir / 'results.json').read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(results, dict):
        return {}
    return results if (results.get('step'), results.get('embedding')) == (step, embedding) else {}


def _from_evaluation(workdir: Path, step: int, shown: result.Result) -> dict[str, Any]:
    """Returns what results.json adds, if it belongs to this step and to the result that is shown."""
    results = _results(workdir, step, shown.embedding)
    recall = {int(k): v for k, v in results.get('recall', {}).items()}
    if any(recall[k] != shown.recall[k] for k in recall.keys() & shown.recall.keys()):
        results = {}
    found: dict[str, Any] = {'baselines': {}, 'precision': {}, 'members_picture': ''}
    for name, baseline in results.get('baselines', {}).items():
        found['baselines'][name] = {int(k): v for k, v in baseline.items()}
    found['precision'] = {key: results[key] for key in ('map_at_r', 'r_precision') if key in results}
    found['members'] = results.get('members_curve', [])
    found['shrunk'] = results.get('shrunk', [])
    picture = workdir / 'members_curve.png'
    if found['members'] and picture.exists():
        found['members_picture'] = thumbnails.data_uri(picture.read_bytes(), 'image/png')
    return found


def _hardest(retrieved: Retrieved, pictures: _Pictures) -> list[dict[str, Any]]:
    hardest = retrieved.hardest(_CLASSES)
    examples = np.array([hard.example for hard in hardest], int)
    own = pictures.of(pictures.query_split, examples)
    found = pictures.of(pictures.gallery_split, retrieved.neighbors[examples, 0])
    return [
        {
            'name': pictures.name(hard.label, pictures.query_split),
            'taken_for': pictures.name(hard.taken_for),
            'hard': hard,
            'picture': picture,
            'other': other,
        }
        for hard, picture, other in zip(hardest, own, found, strict=True)
    ]


def _rows(retrieved: Retrieved, queries: np.ndarray, pictures: _Pictures) -> list[dict[str, Any]]:
    """Returns each query's picture and neighbors, and the place of its first match."""
    neighbors = retrieved.neighbors[queries]
    found = iter(pictures.of(pictures.gallery_split, neighbors.reshape(-1)))
    correct = retrieved.correct
    rows = []
    for query, picture in zip(queries, pictures.of(pictures.query_split, queries), strict=True):
        place = int(retrieved.ranks[query]) + 1
        rows.append(
            {
                'name': pictures.name(retrieved.protocol.query_labels[query], pictures.query_split),
                'picture': picture,
                'place': place if place <= len(retrieved.protocol.gallery_labels) else None,
                'neighbors': [
                    {
                        'picture': next(found),
                        'name': pictures.name(retrieved.protocol.gallery_labels[i]),
                        'right': bool(right),
                        'similarity': float(similarity),
                    }
                    for i, right, similarity in zip(
                        retrieved.neighbors[query],
                        correct[query],
                        retrieved.similarities[query],
                        strict=True,
                    )
                ],
            }
        )
    return rows


def _map(embeddings: np.ndarray, retrieved: Retrieved, pictures: _Pictures) -> dict[str, Any] | None:
    """Returns the classes with their points, and the sheet of the points' thumbnails."""
    laid = embedding_map.lay_out(embeddings)
    if laid is None:
        return None
    labels = retrieved.protocol.query_labels[laid.chosen]
    missed = retrieved.ranks[laid.chosen] > 0
    missed |= retrieved.ranks[laid.chosen] == NO_MATCH
    images = pictures.arrays(pictures.query_split, laid.chosen)
    side = min(_POINT, max(images[0].shape[:2]))
    columns = int(np.ceil(np.sqrt(len(images))))
    classes = [
        {
            'name': pictures.name(label, pictures.query_split),
            'hue': round(number * 137.508 % 360),  # the golden angle: neighbors in number differ
            'points': [
                (int(i), *laid.places[i].tolist(), bool(missed[i])) for i in np.flatnonzero(labels == label)
            ],
        }
        for number, label in enumerate(np.unique(labels))
    ]
    return {
        'classes': classes,
        'shown': len(images),
        'of': len(embeddings),
        'sheet': thumbnails.sheet(images, len(images), columns, side),
        'columns': columns,
        'side': side,
    }


def _config(embedder: Embedder) -> list[tuple[str, str, bool]]:
    """Returns each field's name, value, and whether it differs from the default."""
    config, usual = embedder.run.config, default.get_config()
    changed = saved_config.differences(usual, config)
    return [(field, _shown(config[field]), field in changed) for field in usual]


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ', '.join(map(_shown, value))
    return f'{value:.6g}' if isinstance(value, float) else str(value)


def _versions(workdir: Path, step: int) -> list[tuple[str, str, str]]:
    """Returns each package with its version when the checkpoint was saved, and now."""
    checkpoints, _ = checkpoint.newest(workdir)
    saved, now = checkpoints.versions(step), installed()
    checkpoints.close()
    return [(package, saved.get(package, ''), now.get(package, '')) for package in {**saved, **now}]
