"""Queries with their nearest neighbours (right ones green, wrong ones red), and members_curve.png."""

from collections.abc import Sequence
from pathlib import Path

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from sreml_jax import disk_faults
from sreml_jax.data.dataset import Dataset
from sreml_jax.retrieval.members_curve import Point
from sreml_jax.retrieval.search import nearest

RIGHT, WRONG = '#2e9e4f', '#d43d3d'
_PAPER, _INK, _QUIET, _HAIRLINE = 'white', '#202020', '#707070', '#c8c8c8'
_TILE, _FRAME, _GAP, _MARGIN = 128, 5, 12, 28  # pixels; the frame goes around the tile
_CAPTION, _HEAD = 24, 44  # pixels of height below a tile and above all
_ASIDE = 36  # pixels between a query and its neighbours


def save_retrievals(
    path: Path,
    dataset: Dataset,
    query: np.ndarray,
    gallery: np.ndarray,
    *,
    rows: int = 8,
    columns: int = 8,
    devices: Sequence[jax.Device] | None = None,
) -> None:
    """Writes the picture of `rows` queries, of as many classes as there are, and their nearest neighbours.

    The queries are the same at each call: they depend on the labels alone.

    Args:
      path: of the PNG; whoever reads it meanwhile finds the old one or the new one, whole.
      dataset: gives images, labels and names of the evaluation splits.
      query: float32 [queries, d], embeddings of the query split, of unit length.
      gallery: float32 [images, d], of the gallery split.
      rows, columns: queries and neighbours to show.
      devices: to search on; all local ones where not given.
    """
    splits = dataset.evaluation_splits
    query_labels, gallery_labels = (dataset.labels[split] for split in splits)
    same = splits[0] == splits[1]
    chosen = choose_queries(query_labels, rows)
    # One more, for a query finds itself in its own split.
    found, _ = nearest(query[chosen], gallery, columns + same, same=False, devices=devices)
    if same:
        found = np.stack([drop(row, itself) for row, itself in zip(found, chosen, strict=True)])
    query_images, neighbours = (
        np.concatenate(list(dataset.images(split, indices, len(indices))))
        for split, indices in zip(splits, (chosen, found.reshape(-1)), strict=True)
    )
    names = [dataset.class_names[split] for split in splits]
    picture = draw(
        query_images,
        neighbours.reshape(*found.shape, *neighbours.shape[1:]),
        gallery_labels[found] == query_labels[chosen, None],
        [names[0][int(label)] for label in query_labels[chosen]],
        [[names[1][int(label)] for label in row] for row in gallery_labels[found]],
    )
    with disk_faults.whole(path) as temporary:
        picture.save(temporary, format='PNG', optimize=True)


def save_members_curve(path: Path, curve: Sequence[Point]) -> None:
    """Writes the PNG of Recall@1 by the number of members; bars are the subsets' deviations."""
    figure = Figure(figsize=(6.4, 4), layout='constrained')
    axes = figure.add_subplot(
        xscale='log', xlabel='members', ylabel='Recall@1 (%)', title='Recall@1 by the number of members'
    )
    members = [point.members for point in curve]
    mean, deviation = (100 * np.array([getattr(p, name) for p in curve]) for name in ('mean', 'deviation'))
    axes.errorbar(members, mean, deviation, color=RIGHT, marker='o', capsize=4)
    axes.set_xticks(members, [str(n) for n in members])
    axes.minorticks_off()
    axes.grid(color=_HAIRLINE, linewidth=0.5)
    axes.spines[['top', 'right']].set_visible(False)
    with disk_faults.whole(path) as temporary:
        figure.savefig(temporary, format='png', dpi=150)


def choose_queries(labels: np.ndarray, number: int) -> np.ndarray:
    """Returns int64 [min(number, len(labels))]: queries of different classes first, drawn by a fixed seed."""
    order = np.random.default_rng(0).permutation(len(labels))
    first = np.unique(labels[order], return_index=True)[1]
    one_a_class = np.random.default_rng(1).permutation(order[first])
    return np.concatenate([one_a_class, np.setdiff1d(order, one_a_class)])[:number]


def drop(neighbours: np.ndarray, itself: int) -> np.ndarray:
    """Returns int [k + 1] neighbours without the query itself; without the last where others tie it away."""
    return neighbours[neighbours != itself][: len(neighbours) - 1]


def draw(
    queries: np.ndarray | Sequence[np.ndarray],
    neighbours: np.ndarray | Sequence[Sequence[np.ndarray]],
    right: np.ndarray | None,
    query_names: Sequence[str],
    neighbour_names: Sequence[Sequence[str]],
) -> Image.Image:
    """Draws one query a row, its neighbours to the right of it.

    Args:
      queries: [rows] of uint8 [H, W, 3], of any sizes.
      neighbours: [rows, columns] likewise, the most similar first.
      right: bool [rows, columns]; None where nothing is known of that: no frames then.
      query_names: caption of each query; shortened where it does not fit.
      neighbour_names: likewise, [rows, columns].
    """
    rows, columns = len(queries), max(map(len, neighbours))
    step = _TILE + 2 * _FRAME + _GAP
    left = _MARGIN + step + _ASIDE  # of the first neighbour
    height = _HEAD + rows * (step + _CAPTION) + _MARGIN - _GAP
    page = Image.new('RGB', (left + columns * step - _GAP + _MARGIN, height), _PAPER)
    pen = ImageDraw.Draw(page)
    bold, plain = _font('DejaVuSans-Bold.ttf', 15), _font('DejaVuSans.ttf', 12)

    pen.text((_MARGIN, _HEAD // 2), 'Query', _INK, bold, anchor='lm')
    pen.text((left, _HEAD // 2), 'Nearest neighbours', _INK, bold, anchor='lm')
    x = left + pen.textlength('Nearest neighbours', bold) + 24
    for word, colour in (('right', RIGHT), ('wrong', WRONG)) if right is not None else ():
        pen.rectangle((x, _HEAD // 2 - 6, x + 12, _HEAD // 2 + 6), outline=colour, width=3)
        pen.text((x + 19, _HEAD // 2), word, _QUIET, plain, anchor='lm')
        x += 80
    middle = left - (_ASIDE + _GAP) // 2
    pen.line((middle, _HEAD, middle, height - _MARGIN), _HAIRLINE)

    def tile(x: int, y: int, image: np.ndarray, frame: str | None, name: str, ink: str) -> None:
        side = _TILE + 2 * _FRAME
        if frame:
            pen.rectangle((x, y, x + side - 1, y + side - 1), fill=frame)
        else:  # a hairline, so that a white image has an edge
            pen.rectangle((x + _FRAME - 1, y + _FRAME - 1, x + side - _FRAME, y + side - _FRAME), _HAIRLINE)
        page.paste(_fit(image), (x + _FRAME, y + _FRAME))
        caption = _shorten(name.replace('_', ' '), side, pen, plain)
        pen.text((x + side // 2, y + side + _CAPTION // 2 - 2), caption, ink, plain, anchor='mm')

    for row in range(rows):
        y = _HEAD + row * (step + _CAPTION)
        tile(_MARGIN, y, queries[row], None, query_names[row], _INK)
        for column, (image, name) in enumerate(zip(neighbours[row], neighbour_names[row], strict=True)):
            frame = None if right is None else RIGHT if right[row, column] else WRONG
            tile(left + column * step, y, image, frame, name, _QUIET)
    return page


def _fit(image: np.ndarray) -> Image.Image:
    """Fits uint8 [H, W, 3] into a tile, the shape of the image kept, on white."""
    picture = Image.fromarray(image)
    scale = _TILE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    filled = Image.new('RGB', (_TILE, _TILE), _PAPER)
    way = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    filled.paste(picture.resize((width, height), way), ((_TILE - width) // 2, (_TILE - height) // 2))
    return filled


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Loads one of the fonts that matplotlib ships: the same on every machine."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / name, size)


def _shorten(name: str, width: int, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    """Leaves out the middle of a name that is wider than `width` pixels: names often differ at their ends."""
    if pen.textlength(name, font) <= width:
        return name
    short = name
    for kept in range(len(name) - 1, 0, -1):
        short = name[: kept - kept // 2].rstrip() + '…' + name[len(name) - kept // 2 :].lstrip()
        if pen.textlength(short, font) <= width:
            break
    return short
