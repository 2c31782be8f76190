"""Stanford Cars (CARS196): models 1-98 train, 99-196 test, in whichever half they were published."""

from pathlib import Path

import numpy as np
import scipy.io

from sreml_jax.data.sources import archives, layout
from sreml_jax.data.sources.builder import Example, RetrievalBuilder
from sreml_jax.runtime.errors import UserError

# Either layout: its annotation files, and its folders of images.
WHOLE = (('cars_annos.mat',), ('car_ims',))
HALVES = (('cars_train_annos.mat', 'cars_test_annos_withlabels.mat'), ('cars_train', 'cars_test'))
ANNOTATION_FOLDERS = ('', 'devkit/', 'car_devkit/', 'car_devkit/devkit/')
ARCHIVES = ('car_ims', 'cars_train', 'cars_test', 'car_devkit')
ADVICE = (
    'fetch by hand and put there, packed or unpacked, either cars_annos.mat and car_ims.tgz, or '
    'car_devkit.tgz, cars_train.tgz, cars_test.tgz and cars_test_annos_withlabels.mat; their page, '
    'https://ai.stanford.edu/~jkrause/cars/car_dataset.html, is often out of reach: '
    'https://github.com/pytorch/vision/issues/7545 names copies.'
)
TRAIN_CLASSES = 98


class Car(RetrievalBuilder):
    """See `find_examples`."""

    def find_examples(self, source: Path) -> dict[str, list[Example]]:
        return find_examples(source)


def find_examples(source: Path) -> dict[str, list[Example]]:
    """Lists the images of both splits.

    Args:
      source: the folder with `cars_annos.mat` and `car_ims/`, or with `cars_train/`, `cars_test/` and the
        devkit's annotations (beside them, in `devkit/` or in `car_devkit/devkit/`), or with the archives.

    Returns:
      {'train': classes 1-98, 'test': classes 99-196}.

    Raises:
      UserError: neither layout is complete, or an annotation file is damaged.
    """
    whole, halves = _find(source, WHOLE), _find(source, HALVES)
    if not (all(whole.values()) or all(halves.values())):
        archives.unpack(source, ARCHIVES)
        whole, halves = _find(source, WHOLE), _find(source, HALVES)
    if all(whole.values()):
        annotations, images = filter(None, whole.values())
        rows = _read(annotations, 'relative_im_path', images.parent)
        names = _read_names(annotations)
    elif all(halves.values()):
        train, test, train_images, test_images = filter(None, halves.values())
        rows = _read(train, 'fname', train_images) + _read(test, 'fname', test_images)
        meta = train.with_name('cars_meta.mat')
        names = _read_names(meta) if meta.exists() else {}
    else:
        lacks, or_lacks = (', '.join(k for k in found if found[k] is None) for found in (whole, halves))
        raise UserError(
            f'{source} has no complete copy of Stanford Cars (it lacks {lacks}; or else {or_lacks}): {ADVICE}'
        )
    splits: dict[str, list[Example]] = {'train': [], 'test': []}
    for path, model, box in rows:
        # The number keeps two models of one name apart.
        label = f'{model:03}.{names[model]}' if model in names else f'{model:03}'
        splits['train' if model <= TRAIN_CLASSES else 'test'].append(Example(path, label, box))
    return splits


def _find(source: Path, wanted: tuple[tuple[str, ...], tuple[str, ...]]) -> dict[str, Path | None]:
    """Where each annotation file and each folder of images lies, some mirrors nesting the latter twice."""
    annotations, images = wanted
    files = {name: layout.find(source, [f + name for f in ANNOTATION_FOLDERS]) for name in annotations}
    return files | {name: layout.find(source, [f'{name}/{name}', name]) for name in images}


def _read(
    annotations: Path, path_field: str, folder: Path
) -> list[tuple[Path, int, tuple[int, int, int, int]]]:
    """Returns (path, number of the model, box) of every image."""
    table = _load(annotations, 'annotations')
    fields = (path_field, 'class', 'bbox_x1', 'bbox_y1', 'bbox_x2', 'bbox_y2')
    lacks = [field for field in fields if field not in (table.dtype.names or ())]
    if lacks:
        raise UserError(f'{annotations} has no {", ".join(lacks)}: it is another file of that name; {ADVICE}')
    return [
        # MATLAB counts pixels from 1 and includes the last.
        (folder / str(path), int(model), (int(x1) - 1, int(y1) - 1, int(x2), int(y2)))
        for path, model, x1, y1, x2, y2 in zip(*(table[field] for field in fields), strict=True)
    ]


def _read_names(path: Path) -> dict[int, str]:
    return {number: str(name) for number, name in enumerate(_load(path, 'class_names'), 1)}


def _load(path: Path, variable: str) -> np.ndarray:
    try:
        return np.atleast_1d(scipy.io.loadmat(path, squeeze_me=True)[variable])
    except Exception as error:  # scipy raises nearly anything over a damaged file
        raise UserError(
            f'Cannot read {variable} in {path} ({error}): put a good copy of the file there.'
        ) from None
