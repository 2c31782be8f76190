"""A contact sheet: one query a row, its nearest neighbors to the right of it."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sreml_jax.runtime.text import printable

RIGHT, WRONG = '#2e9e4f', '#d43d3d'
_PAPER, _INK, _QUIET, _HAIRLINE = 'white', '#202020', '#707070', '#c8c8c8'
_TILE, _FRAME, _GAP, _MARGIN = 128, 5, 12, 28  # pixels; the frame goes around the tile
_CAPTION, _HEAD = 24, 44  # pixels of height below a tile, and above the first row
_ASIDE = 36  # pixels between a query and its neighbors


def draw(
    queries: np.ndarray | Sequence[np.ndarray],
    neighbors: np.ndarray | Sequence[Sequence[np.ndarray]],
    right: np.ndarray | None,
    query_names: Sequence[str],
    neighbor_names: Sequence[Sequence[str]],
) -> Image.Image:
    """Draws one query a row, its neighbors to the right of it.

    Args:
      queries: [rows] of uint8 [H, W, 3], of any sizes.
      neighbors: [rows, columns] of uint8 [H, W, 3], the most similar first; rows may differ in length.
      right: bool [rows, columns], which neighbors are of the query's class; None draws no frames.
      query_names: [rows] captions; a caption that is too long is shortened.
      neighbor_names: [rows, columns] captions.
    """
    rows, columns = len(queries), max(map(len, neighbors))
    step = _TILE + 2 * _FRAME + _GAP
    left = _MARGIN + step + _ASIDE  # of the first neighbor
    height = _HEAD + rows * (step + _CAPTION) + _MARGIN - _GAP
    page = Image.new('RGB', (left + columns * step - _GAP + _MARGIN, height), _PAPER)
    pen = ImageDraw.Draw(page)
    bold, plain = _font('DejaVuSans-Bold.ttf', 15), _font('DejaVuSans.ttf', 12)

    pen.text((_MARGIN, _HEAD // 2), 'Query', _INK, bold, anchor='lm')
    pen.text((left, _HEAD // 2), 'Nearest neighbors', _INK, bold, anchor='lm')
    x = left + pen.textlength('Nearest neighbors', bold) + 24
    for word, color in (('right', RIGHT), ('wrong', WRONG)) if right is not None else ():
        pen.rectangle((x, _HEAD // 2 - 6, x + 12, _HEAD // 2 + 6), outline=color, width=3)
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
        caption = _shorten(printable(name.replace('_', ' ')), side, pen, plain)
        pen.text((x + side // 2, y + side + _CAPTION // 2 - 2), caption, ink, plain, anchor='mm')

    for row in range(rows):
        y = _HEAD + row * (step + _CAPTION)
        tile(_MARGIN, y, queries[row], None, query_names[row], _INK)
        for column, (image, name) in enumerate(zip(neighbors[row], neighbor_names[row], strict=True)):
            frame = None if right is None else RIGHT if right[row, column] else WRONG
            tile(left + column * step, y, image, frame, name, _QUIET)
    return page


def _fit(image: np.ndarray) -> Image.Image:
    """Fits uint8 [H, W, 3] into a white tile; keeps its aspect ratio."""
    picture = Image.fromarray(image)
    scale = _TILE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    filled = Image.new('RGB', (_TILE, _TILE), _PAPER)
    filter = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    filled.paste(picture.resize((width, height), filter), ((_TILE - width) // 2, (_TILE - height) // 2))
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
