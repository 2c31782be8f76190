"""Stanford Cars (CARS196): models 1-98 train, 99-196 test, in whichever half they were published."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

from sreml_jax.data.decode import Box
from sreml_jax.data.sources import archives, layout, mat_reader
from sreml_jax.data.sources.builder import RetrievalBuilder
from sreml_jax.data.sources.listing import Example
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable

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
TRAIN_CLASSES, CLASSES = 98, 196
# SHA-256 of the devkit's own files, which scipy may read in this process. Others get one of their own.
OFFICIAL = (
    '1c1973dd828a2964060b0bbc0e423466393fe3001a3f8e303f41fbf22067dfb1',  # cars_train_annos.mat
    'fe43dfda289448f97c25b09e09fafc0414e22fc4143831537780884a0a5f4a1a',  # cars_meta.mat
)
MOST_BYTES = 2**26  # of an annotation file; the official ones have less than 1 MB


class Car(RetrievalBuilder):
    """See `find_examples`."""

    BENCHMARK: ClassVar = {'train': (8_054, 98), 'test': (8_131, 98)}

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
        contents = _load(annotations)
        rows = _rows(annotations, contents, 'relative_im_path', images.parent)
        names = _names(annotations, contents)
    elif all(halves.values()):
        train, test, train_images, test_images = filter(None, halves.values())
        rows = _rows(train, _load(train), 'fname', train_images) + _rows(
            test, _load(test), 'fname', test_images
        )
        meta = train.with_name('cars_meta.mat')
        names = _names(meta, _load(meta)) if meta.exists() else {}
    elif not any((*whole.values(), *halves.values())):
        raise layout.absent('car', source, ADVICE)
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


def _rows(
    annotations: Path, contents: dict[str, Any], path_field: str, folder: Path
) -> list[tuple[Path, int, Box]]:
    """Returns (path, number of the model, box) of every image."""
    table: dict[str, list] = contents.get('annotations', {})
    fields = (path_field, 'class', 'bbox_x1', 'bbox_y1', 'bbox_x2', 'bbox_y2')
    lacks = [field for field in fields if not isinstance(table, dict) or field not in table]
    if lacks:
        raise UserError(f'{annotations} has no {", ".join(lacks)}: it is another file of that name; {ADVICE}')
    rows = []
    for number, (path, *numbers) in enumerate(zip(*(table[field] for field in fields), strict=True), 1):
        try:
            model, x1, y1, x2, y2 = map(int, numbers)
            if not 1 <= model <= CLASSES:
                raise ValueError(f'class {model}')
            # MATLAB counts pixels from 1 and includes the last.
            rows.append((folder / layout.picture_path(path), model, (x1 - 1, y1 - 1, x2, y2)))
        except (ValueError, TypeError, OverflowError, AttributeError):
            row = printable((path, *numbers), 80)
            raise UserError(f'Image {number} of {annotations} is damaged {row}: {layout.GOOD_COPY}') from None
    layout.refuse_repeated(annotations, (path for path, *_ in rows))
    return rows


def _names(path: Path, contents: dict[str, Any]) -> dict[int, str]:
    names = contents.get('class_names')
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f'{path} has no class_names: {layout.GOOD_COPY}')
    return dict(enumerate(names, 1))


def _load(path: Path) -> dict[str, Any]:
    """Returns the variables of a .mat file; see `mat_reader.variables`.

    Raises:
      UserError: the file is damaged, so badly perhaps that scipy crashes over it.
    """
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise UserError(f'{path} is no annotation file: {layout.GOOD_COPY}')
    if hashlib.sha256(path.read_bytes()).hexdigest() in OFFICIAL:
        return mat_reader.variables(str(path))
    command = [sys.executable, '-P', '-W', 'ignore', mat_reader.__file__, str(path)]
    environment = os.environ | {'OPENBLAS_NUM_THREADS': '1'}  # whose threads would take address space
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=2 * mat_reader.SECONDS)
        contents = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        contents = {'error': 'it takes too long'}
    except ValueError:
        contents = {'error': 'its reader crashed'}
    if 'error' in contents:
        raise UserError(f'Cannot read {path} ({printable(contents["error"])}): {layout.GOOD_COPY}')
    return contents
