"""Copies of the four datasets without their photographs: a tiny picture at every path of a list.

Each `make_<dataset>(folder, annotations)` takes the official lists from `annotations`, and one picture serves
for all paths. Without `annotations` it makes up lists of `classes` classes to train and as many others to
test, with `per_class` pictures each, in which the bounding box is painted in the color of the class.
"""

import io
import os
import shutil
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from support.paths import SHARED

OFFICIAL = SHARED / 'annotations'  # where a checkout has them
SIZE = 40  # pixels; both sides
LEFT, TOP, RIGHT, BOTTOM = 8, 4, 32, 36  # the box of every made-up picture; RIGHT and BOTTOM exclusive


def make_car(folder: Path, annotations: Path | None = None, classes: int = 4, per_class: int = 4) -> None:
    """Makes Stanford Cars as `cars_train/`, `cars_test/` and `devkit/`; the halves cut across the classes."""
    devkit = folder / 'devkit'
    if annotations:
        shutil.copytree(annotations / 'cars', devkit, copy_function=shutil.copyfile)
        for half, file in (('train', 'cars_train_annos'), ('test', 'cars_test_annos_withlabels')):
            names = [
                str(row['fname'][0]) for row in scipy.io.loadmat(devkit / f'{file}.mat')['annotations'][0]
            ]
            _link(folder / f'cars_{half}' / name for name in names)
        return
    devkit.mkdir(parents=True)
    models = np.repeat(_ids(classes, 98), per_class)
    for half, file in ((0, 'cars_train'), (1, 'cars_test')):
        mine = models[half::2]
        names = [f'{i:05}.jpg' for i in range(1, len(mine) + 1)]
        suffix = '_withlabels' if half else ''
        _write_mat(devkit / f'{file}_annos{suffix}.mat', 'fname', names, mine)
        for name, model in zip(names, mine, strict=True):
            write_picture(folder / file / name, int(model))
    scipy.io.savemat(devkit / 'cars_meta.mat', {'class_names': _cell(f'Model {i}' for i in range(1, 197))})


def make_car_whole(folder: Path, classes: int = 4, per_class: int = 4) -> None:
    """Makes Stanford Cars as `cars_annos.mat` and `car_ims/`."""
    models = np.repeat(_ids(classes, 98), per_class)
    for name, model in zip(write_car_annos(folder, models), models, strict=True):
        write_picture(folder / name, int(model))


def write_car_annos(folder: Path, models: Sequence[int]) -> list[str]:
    """Writes `cars_annos.mat` for images of these models (1-196); returns the paths that it lists."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f'car_ims/{i:06}.jpg' for i in range(1, len(models) + 1)]
    class_names = _cell(f'Model {i}' for i in range(1, 197))
    _write_mat(folder / 'cars_annos.mat', 'relative_im_path', names, models, class_names=class_names)
    return names


def make_cub(folder: Path, annotations: Path | None = None, classes: int = 4, per_class: int = 4) -> None:
    """Makes `CUB_200_2011/`."""
    root = folder / 'CUB_200_2011'
    if annotations:
        shutil.copytree(annotations / 'CUB_200_2011', root, copy_function=shutil.copyfile)
        lines = (root / 'images.txt').read_text().splitlines()
        _link(root / 'images' / line.split(' ')[1] for line in lines)
        return
    root.mkdir(parents=True)
    kinds = np.repeat(_ids(classes, 100), per_class)
    names = [f'{kind:03}.Bird_{kind}/Bird_{kind}_{i:04}.jpg' for i, kind in enumerate(kinds, 1)]
    box = f'{LEFT}.0 {TOP}.0 {RIGHT - LEFT}.0 {BOTTOM - TOP}.0'
    for file, values in (
        ('images', names),
        ('image_class_labels', kinds),
        ('bounding_boxes', [box] * len(names)),
    ):
        (root / f'{file}.txt').write_text(''.join(f'{i} {value}\n' for i, value in enumerate(values, 1)))
    for name, kind in zip(names, kinds, strict=True):
        write_picture(root / 'images' / name, int(kind))


def make_sop(folder: Path, classes: int = 4, per_class: int = 4) -> None:
    """Makes `Stanford_Online_Products/`."""
    products = np.repeat(np.arange(1, 2 * classes + 1), per_class)
    half = classes * per_class
    paths = write_sop_lists(folder, {'train': products[:half], 'test': products[half:]})
    for path, product in zip(paths, products, strict=True):
        write_picture(folder / 'Stanford_Online_Products' / path, int(product))


def write_sop_lists(folder: Path, products: dict[str, Sequence[int]]) -> list[str]:
    """Writes Ebay_train.txt and Ebay_test.txt for images of these products; returns the paths listed."""
    root = folder / 'Stanford_Online_Products'
    root.mkdir(parents=True)
    paths: list[str] = []
    for split, numbers in products.items():
        lines = ['image_id class_id super_class_id path']
        for number in numbers:
            paths.append(f'mug_final/{110000000000 + int(number)}_{len(paths)}.JPG')
            lines.append(f'{len(paths)} {number} 8 {paths[-1]}')
        (root / f'Ebay_{split}.txt').write_text('\n'.join(lines) + '\n')
    return paths


def make_isc(folder: Path, annotations: Path | None = None, classes: int = 4, per_class: int = 4) -> None:
    """Makes `Eval/` and `Img/img/`; half of the pictures of each made-up test item are queries."""
    partition = folder / 'Eval' / 'list_eval_partition.txt'
    partition.parent.mkdir(parents=True)
    if annotations:
        shutil.copyfile(annotations / 'inshop' / 'Eval' / partition.name, partition)
        _link(folder / 'Img' / line.split()[0] for line in partition.read_text().splitlines()[2:])
        return
    rows = []
    for item in range(1, 2 * classes + 1):
        for i in range(per_class):
            path = f'img/WOMEN/Dresses/id_{item:08}/{i:02}_1_front.jpg'
            split = 'train' if item <= classes else 'query' if i < per_class // 2 else 'gallery'
            rows.append(f'{path} id_{item:08} {split}')
            write_picture(folder / 'Img' / path, item)
    header = [str(len(rows)), 'image_name item_id evaluation_status']
    partition.write_text('\n'.join(header + rows) + '\n')


def write_picture(path: Path, class_id: int) -> None:
    """Writes a gray picture whose box has the color of the class, with some noise."""
    color = np.random.default_rng(class_id).integers(0, 256, 3)
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    pixels = np.full((SIZE, SIZE, 3), 128.0)
    pixels[TOP:BOTTOM, LEFT:RIGHT] = color
    pixels += rng.normal(0, 16, pixels.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, 'jpeg', quality=90)


def paint_box(path: Path, color: tuple[int, int, int]) -> None:
    """Replaces a made-up picture by one without loss, white but for its box."""
    picture = Image.new('RGB', (SIZE, SIZE), 'white')
    picture.paste(color, (LEFT, TOP, RIGHT, BOTTOM))
    picture.save(path, 'png')


def _ids(classes: int, last_train: int) -> np.ndarray:
    """The first classes of either side."""
    return np.concatenate([np.arange(1, classes + 1), np.arange(1, classes + 1) + last_train])


def _link(paths: Iterable[Path]) -> None:
    """Puts one tiny JPEG at every path: the same file, so that 50,000 of them take no room."""
    encoded = io.BytesIO()
    Image.new('RGB', (16, 16), (200, 100, 50)).save(encoded, 'jpeg')
    first = None
    for path in paths:
        if first is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded.getvalue())
            first = path
            continue
        try:
            os.link(first, path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True)
            os.link(first, path)


def _cell(names: Iterable[str]) -> np.ndarray:
    """A MATLAB cell array of strings, [1, n]."""
    names = list(names)
    cell = np.empty((1, len(names)), object)
    cell[0] = names
    return cell


def _write_mat(file: Path, path_field: str, names: Sequence[str], models: Sequence[int], **variables) -> None:
    """Writes the devkit's struct array; its boxes count pixels from 1 and include the last."""
    box = {'bbox_x1': LEFT + 1, 'bbox_y1': TOP + 1, 'bbox_x2': RIGHT, 'bbox_y2': BOTTOM}
    fields = [*box, 'class', path_field]
    rows = np.empty((1, len(names)), [(field, object) for field in fields])
    for field, value in box.items():
        rows[field] = value
    rows['class'][0] = [int(model) for model in models]
    rows[path_field][0] = names
    buffer = io.BytesIO()  # scipy seeks for every number, which costs dearly in a file
    scipy.io.savemat(buffer, {'annotations': rows, **variables})
    file.write_bytes(buffer.getvalue())
