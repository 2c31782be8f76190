"""Draws characters in the font faces that matplotlib ships; a character is a class. Needs no download."""

import functools
import io
import string
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import PIL
from fontTools.ttLib import TTFont
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from sreml_jax.data.sources.builder import RetrievalBuilder
from sreml_jax.data.sources.listing import Example

_FONTS = Path(matplotlib.get_data_path(), 'fonts', 'ttf')
_FACES = ('DejaVuSans', 'DejaVuSerif', 'STIXGeneral')  # families with whole alphabets
_TEX_FACES = ('cmb10', 'cmmi10', 'cmr10', 'cmss10', 'cmti10', 'cmtt10')
_BLOCKS = (*range(0x30, 0x590), *range(0x10D0, 0x1100))  # Latin, Greek, Cyrillic, Armenian; Georgian
_FEWEST_FACES = 10
_COMPARED = ('DejaVuSans', 'DejaVuSansMono', 'DejaVuSerif', 'DejaVuSans-Bold')
_ALIKE = 0.9  # cosine of two drawings that look the same, as Latin A and Greek Alpha do

_SIZE = 32  # pixels of both sides
_FINE = 2  # drawn at this multiple of the size, then shrunk
_EM = 0.62  # font size, as a share of the side


class Glyphs(RetrievalBuilder):
    """Small gray pictures, one per character and face, each turned, scaled and shifted a little.

    A character is used if it has at least 10 faces, is not an accented form of another and looks like no
    other. A seeded half of them trains.
    """

    def __init__(self, source: Path, config: ConfigDict):
        super().__init__(_FONTS, config)

    def fingerprint(self) -> str:
        """See `RetrievalBuilder.fingerprint`. The versions determine the pictures."""
        return f'matplotlib-{matplotlib.__version__}-pillow-{PIL.__version__}'

    def find_examples(self, source: Path) -> dict[str, list[Example]]:
        """See `RetrievalBuilder.find_examples`. The path of an example is that of its font."""
        faces = _faces(source)
        characters = np.random.default_rng(0).permutation(_distinct(source, sorted(faces)))
        half = len(characters) // 2
        return {
            split: [Example(face, character) for character in sorted(chosen) for face in faces[character]]
            for split, chosen in (('train', characters[:half]), ('test', characters[half:]))
        }

    def encoded(self, example: Example) -> bytes:
        """See `RetrievalBuilder.encoded`. The character and the face determine the drawing."""
        rng = np.random.default_rng([ord(example.label), *example.path.stem.encode()])
        picture = _drawn(
            example.label,
            example.path,
            rng.uniform(-10, 10),
            rng.uniform(0.88, 1.12),
            rng.uniform(-1.5, 1.5, 2),
        )
        file = io.BytesIO()
        picture.save(file, 'PNG')
        return file.getvalue()


def _faces(fonts: Path) -> dict[str, list[Path]]:
    """Returns character -> its faces, for characters with enough faces."""
    faces: dict[str, list[Path]] = {}
    for path in sorted(fonts.glob('*.ttf')):
        if path.stem in _TEX_FACES:  # TeX's own encodings agree with Unicode only on these
            known = set(map(ord, string.ascii_letters))
        elif path.stem.startswith(_FACES):
            with TTFont(path, lazy=True) as font:
                known = set(font.getBestCmap())
        else:
            continue
        for character in map(chr, sorted(known.intersection(_BLOCKS))):
            letter = unicodedata.category(character) in ('Lu', 'Ll', 'Lo', 'Nd')
            if letter and not unicodedata.decomposition(character):
                faces.setdefault(character, []).append(path)
    return {character: paths for character, paths in faces.items() if len(paths) >= _FEWEST_FACES}


def _distinct(fonts: Path, characters: list[str]) -> list[str]:
    """Returns the characters that do not look like an earlier one."""
    cosine = np.zeros((len(characters), len(characters)))
    for face in _COMPARED:
        ink = 255.0 - np.stack([np.asarray(_drawn(c, fonts / f'{face}.ttf')).reshape(-1) for c in characters])
        ink /= np.linalg.norm(ink, axis=1, keepdims=True)
        cosine += ink @ ink.T / len(_COMPARED)
    kept: list[int] = []
    for i in range(len(characters)):
        if not (cosine[i, kept] >= _ALIKE).any():
            kept.append(i)
    return [characters[i] for i in kept]


def _drawn(
    character: str,
    face: Path,
    turn: float = 0,
    scale: float = 1,
    shift: Sequence[float] | np.ndarray = (0, 0),
) -> Image.Image:
    """Draws black on white, the ink's box in the middle; `turn` in degrees, `shift` in pixels."""
    side = _SIZE * _FINE
    font = _font(face)
    left, top, right, bottom = font.getbbox(character)
    picture = Image.new('L', (side, side), 255)
    corner = ((side - left - right) / 2, (side - top - bottom) / 2)
    ImageDraw.Draw(picture).text(corner, character, fill=0, font=font)
    cos, sin = (f(np.deg2rad(turn)) / scale for f in (np.cos, np.sin))
    middle, (x, y) = side / 2, (side / 2 + _FINE * s for s in shift)
    back = (
        cos,
        sin,
        middle - cos * x - sin * y,
        -sin,
        cos,
        middle + sin * x - cos * y,
    )  # from result to drawing
    turned = picture.transform(
        (side, side), Image.Transform.AFFINE, back, Image.Resampling.BILINEAR, fillcolor=255
    )
    return turned.resize((_SIZE, _SIZE), Image.Resampling.BOX)


@functools.cache
def _font(face: Path) -> ImageFont.FreeTypeFont:
    # The basic layout: the other one needs libraries that not every machine has.
    return ImageFont.truetype(str(face), round(_EM * _SIZE * _FINE), layout_engine=ImageFont.Layout.BASIC)
