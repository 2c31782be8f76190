"""Decodes any picture file to 8-bit RGB by PIL, within bounds of memory and time. Imports no tensorflow.

Training decodes plain JPEG and PNG files in `tf_pictures`.
"""

import contextlib
import io
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sreml_jax.data import pil_messages
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable

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
HEIF_SUFFIXES = ('.heic', '.heif', '.hif')
# Photographs that nothing here reads. They are found all the same, so that no file is left out silently.
FOREIGN_SUFFIXES = ('.jxl', '.jp2', '.psd', '.dng', '.cr2', '.cr3', '.nef', '.arw', '.raf', '.orf', '.rw2')
SUFFIXES = (*(s for suffixes in FORMATS.values() for s in suffixes), *HEIF_SUFFIXES, *FOREIGN_SUFFIXES)
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, right and bottom exclusive

# Bounds of one picture. Within them it costs at most PICTURE_MEMORY bytes and some seconds.
MOST_BYTES = 2**28  # of the file
LONGEST_SIDE = 65_535  # pixels; JPEG's own bound
MOST_PIXELS = 120_000_000
MOST_SCANS = 100  # of a JPEG: each passes over the whole picture; usual are 1 to 12
MOST_SCANNED = 1_500_000_000  # pixels times scans
PICTURE_MEMORY = 2**31
LARGE = 24_000_000  # pixels; of the pictures above, one is decoded at a time

_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
_PNG_BIT_DEPTH = 24  # offset of that byte in every PNG file
_large_turn = threading.Lock()

pil_messages.silence()
try:
    import pillow_heif
except ImportError:  # the extra sreml_jax[heif]
    pass
else:
    pillow_heif.register_heif_opener()
    FORMATS['HEIF'] = HEIF_SUFFIXES


def read_file(path: Path | str) -> bytes:
    """Returns the bytes of a user's picture file.

    Raises:
      UserError: the file is missing, is not a regular file (a pipe, a device), or is larger than MOST_BYTES.
    """
    name = printable(path)
    try:
        # A pipe without a writer would keep a blocking open waiting for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UserError(f'{name}: not a regular file')
            with os.fdopen(handle, 'rb', closefd=False) as file:
                encoded = file.read(MOST_BYTES + 1)
        finally:
            os.close(handle)
    except OSError as error:
        raise UserError(f'{name}: {error.strerror or error}') from None
    except ValueError as error:  # a NUL in the name
        raise UserError(f'{name}: {error}') from None
    if len(encoded) > MOST_BYTES:
        raise UserError(f'{name}: larger than {MOST_BYTES / 2**20:,.0f} MiB, which is no photograph')
    return encoded


@contextlib.contextmanager
def opened(encoded: bytes, name: str) -> Iterator[tuple[Image.Image, bool]]:
    """Decodes a picture as a viewer would show it, and keeps other large pictures waiting while it is used.

    Palette, CMYK, 16-bit and grayscale pictures become 8-bit RGB, transparency is dropped, and a picture that
    a camera marked as turned is turned upright. An animation gives its first frame.

    Args:
      encoded: bytes of the file.
      name: of the file, for the message.

    Yields:
      The picture in mode RGB, and whether it is plain: a JPEG or PNG that holds these very pixels, without
      palette, transparency, deep colors or a turn.

    Raises:
      UserError: these bytes are no complete picture, or it exceeds the bounds above.
    """
    name = printable(name)
    if not encoded:
        raise UserError(f'{name}: empty file')
    with _explained(name):
        picture = Image.open(io.BytesIO(encoded), formats=tuple(FORMATS))
    with picture:
        _refuse_excess(picture, encoded, name)
        large = picture.width * picture.height > LARGE
        with _large_turn if large else contextlib.nullcontext():
            with _explained(name):
                decoded = _decoded(picture, encoded)
            yield decoded


def open_picture(encoded: bytes, name: str) -> tuple[Image.Image, bool]:
    """Returns what `opened` yields; raises the same."""
    with opened(encoded, name) as decoded:
        return decoded


def picture(path: Path | str) -> np.ndarray:
    """Returns the picture in a user's file as uint8 [height, width, 3], decoded as `opened` does.

    Raises:
      UserError: as `read_file` and `opened` raise it.
    """
    with opened(read_file(path), str(path)) as (decoded, _):
        return np.asarray(decoded)


def clipped(box: Box, width: int, height: int) -> Box:
    """Returns the part of `box` inside a picture of this size, or the nearest pixel where there is none."""
    left, top, right, bottom = box
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return left, top, min(max(right, left + 1), width), min(max(bottom, top + 1), height)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Raises UserError in place of whatever PIL's readers raise."""
    try:
        yield
    except UnidentifiedImageError:
        raise UserError(f'{name}: {_why_unidentified(name)}') from None
    except Image.DecompressionBombError:
        raise UserError(f'{name}: {_TOO_MANY_PIXELS}') from None
    except Exception as error:  # PIL's readers raise nearly anything over broken files
        raise UserError(f'{name}: {printable(error) or type(error).__name__}') from None


_TOO_MANY_PIXELS = f'more than {MOST_PIXELS // 10**6} million pixels; make it smaller'


def _why_unidentified(name: str) -> str:
    suffix = Path(name).suffix.lower()
    if suffix in HEIF_SUFFIXES and 'HEIF' not in FORMATS:
        return "not read without pillow-heif: pip install 'sreml_jax[heif]'"
    if suffix in FOREIGN_SUFFIXES:
        return f'{suffix} is no format that is read here; convert it to JPEG or PNG'
    return 'not an image'


def _refuse_excess(picture: Image.Image, encoded: bytes, name: str) -> None:
    """Raises UserError if a picture, of which only the head is read yet, exceeds the bounds."""
    pixels = picture.width * picture.height
    if max(picture.size) > LONGEST_SIDE:
        size = f'{picture.width:,} x {picture.height:,}'
        raise UserError(f'{name}: {size} pixels; a side has at most {LONGEST_SIDE:,}')
    if pixels > MOST_PIXELS:
        raise UserError(f'{name}: {_TOO_MANY_PIXELS}')
    if encoded.startswith(b'\xff\xd8'):
        scans = encoded.count(b'\xff\xda')  # compressed data never has these two bytes
        if scans > MOST_SCANS or scans * pixels > MOST_SCANNED:
            raise UserError(f'{name}: a JPEG of {scans:,} scans would take too long; save it as a usual one')


def _decoded(picture: Image.Image, encoded: bytes) -> tuple[Image.Image, bool]:
    picture.load()
    upright = picture.getexif().get(_ORIENTATION, 1) == 1
    eight_bit = picture.format == 'JPEG' or (picture.format == 'PNG' and encoded[_PNG_BIT_DEPTH] == 8)
    plain = upright and eight_bit and picture.mode in ('L', 'RGB')
    return _rgb(picture if upright else ImageOps.exif_transpose(picture)), plain


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith('I'):  # 16 bits, in which PIL's own conversion would clip rather than scale
        high_byte = np.asarray(picture) >> 8
        picture = Image.fromarray(high_byte.clip(0, 255).astype(np.uint8))
    if 'transparency' in picture.info:  # PIL warns without this detour
        picture = picture.convert('RGBA')
    return picture if picture.mode == 'RGB' else picture.convert('RGB')
