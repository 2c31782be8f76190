"""Small copies of pictures, as files and as data URIs."""

import base64
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

_SHARP_SIDE = 64  # pixels; up to here a PNG is small, and JPEG's artifacts would be visible


def encoded(picture: Image.Image, side: int) -> tuple[bytes, str]:
    """Returns an RGB picture as a file, at most `side` pixels wide and high, and its media type."""
    picture = picture.copy()
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    kind = 'PNG' if max(picture.size) <= _SHARP_SIDE else 'JPEG'
    file = io.BytesIO()
    picture.save(file, kind, quality=88, optimize=True)
    return file.getvalue(), f'image/{kind.lower()}'


def data_uri(content: bytes, media_type: str) -> str:
    """Returns a URI that holds the file itself."""
    return f'data:{media_type};base64,{base64.b64encode(content).decode()}'


def of_array(image: np.ndarray, side: int) -> str:
    """Returns a data URI of uint8 [height, width, 3]."""
    return data_uri(*encoded(Image.fromarray(image), side))


def sheet(images: Iterable[np.ndarray], number: int, columns: int, side: int) -> str:
    """Returns a data URI of one JPEG of `number` images, uint8 [height, width, 3], in tiles of `side` pixels.

    They lie row by row, each stretched to its tile.
    """
    page = Image.new('RGB', (columns * side, -(-number // columns) * side), 'white')
    for i, image in enumerate(images):
        tile = Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)
        page.paste(tile, (i % columns * side, i // columns * side))
    file = io.BytesIO()
    page.save(file, 'JPEG', quality=80, optimize=True)
    return data_uri(file.getvalue(), 'image/jpeg')
