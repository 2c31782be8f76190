"""Picture files of every kind, with the pixels that a viewer shows."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = ((220, 20, 60), (30, 160, 40), (25, 60, 200), (240, 200, 20))  # top left, top right, bottom ones


# Orientation tag -> how a camera that holds the picture this way has stored it.
_TURNS = {
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    8: lambda x: np.rot90(x, -1),
}


def quarters(width: int = 64, height: int = 48) -> np.ndarray:
    """Returns uint8 [height, width, 3]: four rectangles of the four colors."""
    rows, columns = np.arange(height) >= height // 2, np.arange(width) >= width // 2
    return np.asarray(COLORS, np.uint8)[2 * rows[:, None] + columns]


def encoded(pixels: np.ndarray, kind: str = 'PNG', **options) -> bytes:
    """Returns the bytes of a picture file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def write_classes(folder: Path, classes: int, images: int, kind: str = 'png') -> None:
    """Makes `folder/<class>/<image>` of differently colored little pictures."""
    rng = np.random.default_rng(0)
    for i in range(classes):
        for j in range(images):
            path = folder / f'class{i:02}' / f'{j:03}.{kind}'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (9 + j, 8 + i, 3), np.uint8)).save(path)


def write_kinds(folder: Path) -> dict[str, np.ndarray]:
    """Writes one picture of each kind; returns what each shows, uint8 [height, width, 3], by file name.

    The pixels of lossless kinds are exact.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = quarters()
    picture = Image.fromarray(shown)
    gray = np.asarray(picture.convert('L'))
    kinds = {}

    def keep(name: str, image: Image.Image, what: np.ndarray, **options) -> None:
        image.save(folder / name, **options)
        kinds[name] = what

    keep('rgb.png', picture, shown)
    keep('rgb.jpg', picture, shown, quality=95, subsampling=0)
    keep('rgb.webp', picture, shown, lossless=True)
    keep('rgb.bmp', picture, shown)
    keep('gray.png', picture.convert('L'), np.stack([gray] * 3, -1))
    keep('gray.jpg', picture.convert('L'), np.stack([gray] * 3, -1), quality=95)
    keep('palette.png', picture.quantize(4), shown)
    keep('palette_clear.png', picture.quantize(4), shown, transparency=bytes([255, 0, 255, 255]))
    keep('palette.gif', picture.quantize(4), shown)
    keep('alpha.png', picture.convert('RGBA'), shown)
    keep('gray_alpha.png', picture.convert('LA'), np.stack([gray] * 3, -1))
    bits = np.where(gray > 100, 255, 0).astype(np.uint8)
    keep('bits.png', Image.fromarray(gray > 100), np.stack([bits] * 3, -1))
    deep = gray.astype(np.uint16) * 256 + 99
    keep('gray16.png', Image.fromarray(deep), np.stack([gray] * 3, -1))
    keep('gray16.tif', Image.fromarray(deep), np.stack([gray] * 3, -1))
    keep('cmyk.jpg', picture.convert('CMYK'), shown, quality=95, subsampling=0)
    (folder / 'rgb16.png').write_bytes(_rgb16_png(shown.astype(np.uint16) * 256 + 99))
    kinds['rgb16.png'] = shown
    for orientation, turn in _TURNS.items():
        stored = Image.fromarray(np.ascontiguousarray(turn(shown)))
        keep(f'turned{orientation}.jpg', stored, shown, exif=_exif(orientation), quality=95, subsampling=0)
    keep('turned6.png', Image.fromarray(np.ascontiguousarray(_TURNS[6](shown))), shown, exif=_exif(6))
    keep('dot.png', Image.new('RGB', (1, 1), COLORS[0]), np.full((1, 1, 3), COLORS[0], np.uint8))
    long = quarters(20_000, 20)
    keep('long.png', Image.fromarray(long), long)
    keep('long.jpg', Image.fromarray(long), long, quality=95, subsampling=0)
    return kinds


def write_broken(folder: Path) -> list[str]:
    """Writes files that are no pictures; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    jpeg = encoded(noise, 'JPEG')
    broken = {
        'truncated.jpg': jpeg[: len(jpeg) // 2],
        'truncated.png': encoded(noise)[:2000],
        'empty.jpg': b'',
        'text.jpg': b'I am no picture.\n',
        'eps.jpg': encoded(noise, 'EPS'),  # PIL would start Ghostscript
    }
    for name, content in broken.items():
        (folder / name).write_bytes(content)
    return list(broken)


def blank_png(width: int, height: int) -> bytes:
    """Returns a black PNG of 1-bit pixels, made row by row: sizes that no test could hold as pixels."""
    packer = zlib.compressobj(1)
    rows = [packer.compress(bytes(1 + -(-width // 8))) for _ in range(height)]
    return _png(struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0), b''.join([*rows, packer.flush()]))


def jpeg_of_scans(pixels: np.ndarray, scans: int) -> bytes:
    """Returns a progressive JPEG that repeats its last scan until it has that many."""
    jpeg = encoded(pixels, 'JPEG', progressive=True)
    last, end = jpeg.rindex(b'\xff\xda'), jpeg.rindex(b'\xff\xd9')
    return jpeg[:last] + jpeg[last:end] * (scans + 1 - jpeg.count(b'\xff\xda')) + jpeg[end:]


def animated_png(pixels: np.ndarray) -> bytes:
    """Returns a PNG of two frames."""
    frames = [Image.fromarray(pixels), Image.fromarray(pixels[::-1].copy())]
    file = io.BytesIO()
    frames[0].save(file, 'PNG', save_all=True, append_images=frames[1:])
    return file.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _rgb16_png(pixels: np.ndarray) -> bytes:
    """Encodes uint16 [height, width, 3], which PIL itself cannot, by the PNG specification."""

    height, width, _ = pixels.shape
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in pixels)
    return _png(struct.pack('>IIBBBBB', width, height, 16, 2, 0, 0, 0), zlib.compress(rows))


def _png(header: bytes, data: bytes) -> bytes:
    chunks = ((b'IHDR', header), (b'IDAT', data), (b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
        for kind, content in chunks
    )
