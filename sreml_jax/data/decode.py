"""Any picture file to 8-bit RGB, through PIL. Imports no tensorflow."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sreml_jax.runtime.errors import UserError

# What is read, whatever a file calls itself: PIL's name of the format -> suffixes. PIL knows others, of which
# EPS starts another program on the user's files.
FORMATS = {
    'JPEG': ('.jpg', '.jpeg'),
    'PNG': ('.png',),
    'WEBP': ('.webp',),
    'BMP': ('.bmp',),
    'GIF': ('.gif',),
    'TIFF': ('.tif', '.tiff'),
    'PPM': ('.ppm', '.pgm'),
    'AVIF': ('.avif',),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, right and bottom exclusive

_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
_PNG_BIT_DEPTH = 24  # offset of that byte in every PNG file


def open_picture(encoded: bytes, name: str) -> tuple[Image.Image, bool]:
    """Decodes a picture as a viewer would show it.

    Palette, CMYK, 16-bit and grayscale pictures become 8-bit RGB, transparency is dropped, and a picture that
    a camera marked as turned is turned upright. Of an animation the first frame counts.

    Args:
      encoded: the bytes of the file.
      name: of the file, for the message.

    Returns:
      The picture in mode RGB, and whether it is plain: a JPEG or PNG of which any decoder makes these pixels.

    Raises:
      UserError: these bytes are no complete picture.
    """
    if not encoded:
        raise UserError(f'{name}: empty file')
    try:
        with Image.open(io.BytesIO(encoded), formats=tuple(FORMATS)) as picture:
            picture.load()
            upright = picture.getexif().get(_ORIENTATION, 1) == 1
            eight_bit = picture.format == 'JPEG' or (picture.format == 'PNG' and encoded[_PNG_BIT_DEPTH] == 8)
            plain = upright and eight_bit and picture.mode in ('L', 'RGB')
            return _rgb(picture if upright else ImageOps.exif_transpose(picture)), plain
    except UnidentifiedImageError:
        raise UserError(f'{name}: not an image') from None
    except Exception as error:  # PIL's readers raise all sorts of it on broken files
        raise UserError(f'{name}: {error}') from None


def picture(path: Path | str) -> np.ndarray:
    """Returns the picture in a user's file as uint8 [height, width, 3], decoded as `open_picture` does.

    Raises:
      UserError: the file is missing or no complete picture.
    """
    try:
        encoded = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'{path}: {error.strerror}') from None
    return np.asarray(open_picture(encoded, str(path))[0])


def clipped(box: Box, width: int, height: int) -> Box:
    """Returns the part of `box` inside a picture of this size, or the nearest pixel where there is none."""
    left, top, right, bottom = box
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return left, top, min(max(right, left + 1), width), min(max(bottom, top + 1), height)


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith('I'):  # 16 bits, in which PIL's own conversion would clip rather than scale
        high_byte = np.asarray(picture).astype(np.int64) >> 8
        picture = Image.fromarray(high_byte.clip(0, 255).astype(np.uint8))
    if 'transparency' in picture.info:  # PIL wants this detour, or warns
        picture = picture.convert('RGBA')
    return picture.convert('RGB')
