"""Every kind of picture file gives the pixels that a viewer shows, or a message."""

import os
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from support import pictures
from support.paths import ROOT, TESTS

from sreml_jax.data import decode
from sreml_jax.runtime.errors import UserError


def test_every_kind_gives_its_pixels(tmp_path):
    for name, shown in pictures.write_kinds(tmp_path).items():
        pixels = decode.picture(tmp_path / name)
        assert pixels.dtype == np.uint8 and pixels.shape == shown.shape, name
        difference = np.abs(pixels.astype(int) - shown)
        if name.endswith('.jpg'):
            assert difference.mean() < 3, name
        else:
            assert difference.max() == 0, name


def test_only_plain_files_are_called_plain(tmp_path):
    kinds = pictures.write_kinds(tmp_path)
    plain = {name for name in kinds if decode.open_picture((tmp_path / name).read_bytes(), name)[1]}
    assert plain == {'rgb.png', 'rgb.jpg', 'gray.png', 'gray.jpg', 'dot.png', 'long.png', 'long.jpg'}


@pytest.mark.parametrize(
    ('name', 'why'),
    [
        ('truncated.jpg', 'truncated'),
        ('truncated.png', 'truncated'),
        ('empty.jpg', 'empty file'),
        ('text.jpg', 'not an image'),
        ('eps.jpg', 'not an image'),
        ('absent.jpg', 'No such file'),
    ],
)
def test_broken_files_are_named_with_the_reason(tmp_path, name, why):
    pictures.write_broken(tmp_path)
    with pytest.raises(UserError, match=f'{name}: .*{why}'):
        decode.picture(tmp_path / name)


def test_every_suffix_is_opened_by_pil_or_named_as_foreign():
    Image.init()
    opened = {suffix for suffix, name in Image.registered_extensions().items() if name in decode.FORMATS}
    named = {*decode.HEIF_SUFFIXES, *decode.FOREIGN_SUFFIXES}
    assert set(decode.SUFFIXES) - named <= opened and set(decode.FORMATS) <= set(Image.OPEN)


@pytest.mark.parametrize(
    ('width', 'height', 'why'),
    [
        (1_000_000, 1, 'a side has at most 65,535'),
        (1, 20_000_000, 'a side has at most 65,535'),
        (12_001, 10_001, 'more than 120 million pixels'),
        (60_000, 50_000, 'more than 120 million pixels'),  # which PIL itself refuses
    ],
)
def test_sizes_out_of_bounds_are_refused_before_decoding(tmp_path, width, height, why):
    content = bytearray(pictures.blank_png(width, min(height, 20)))
    content[20:24] = height.to_bytes(4, 'big')
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, 'big')
    (tmp_path / 'big.png').write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # as outside of tests
        with pytest.raises(UserError, match=f'big.png: .*{why}'):
            decode.picture(tmp_path / 'big.png')


def test_a_jpeg_of_thousands_of_scans_is_refused():
    usual = pictures.jpeg_of_scans(pictures.quarters(), 90)
    assert decode.open_picture(usual, 'x.jpg')[0].size == (64, 48)
    with pytest.raises(UserError, match=r'x\.jpg: a JPEG of 3,000 scans would take too long'):
        decode.open_picture(pictures.jpeg_of_scans(pictures.quarters(), 3_000), 'x.jpg')


def test_a_large_jpeg_may_have_fewer_scans():
    pixels = np.zeros((5_000, 5_000, 3), np.uint8)
    with pytest.raises(UserError, match='a JPEG of 80 scans would take too long'):
        decode.open_picture(pictures.jpeg_of_scans(pixels, 80), 'x.jpg')


# Prints the bytes by which the largest picture raises the peak of the process.
MEMORY = """
import pathlib
from support import pictures
from support.paths import ROOT, TESTS
from sreml_jax.data import decode, photographs
photographs.image(pictures.blank_png(300, 300), 'x', 256)
def peak():
    lines = pathlib.Path('/proc/self/status').read_text().splitlines()  # rusage's peak outlives an exec
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith('VmHWM'))
encoded, before = pictures.blank_png(65_535, 600), peak()
photographs.image(encoded, 'x', 256)
print(peak() - before)
"""


def test_no_picture_costs_more_than_the_stated_memory():
    path = os.pathsep.join((str(ROOT), str(TESTS)))
    done = subprocess.run(
        [sys.executable, '-c', MEMORY], env=os.environ | {'PYTHONPATH': path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # no DecompressionBombWarning
    assert 0 < int(done.stdout) < decode.PICTURE_MEMORY


def test_a_pipe_and_a_device_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / 'pipe.jpg')
    (tmp_path / 'zero.jpg').symlink_to('/dev/zero')
    (tmp_path / 'folder.jpg').mkdir()
    for name in ('pipe', 'zero', 'folder'):
        with pytest.raises(UserError, match=f'{name}.jpg: not a regular file'):
            decode.read_file(tmp_path / f'{name}.jpg')


def test_no_more_is_read_than_a_picture_may_have(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, 'MOST_BYTES', 2**20)
    (tmp_path / 'x.jpg').write_bytes(bytes(2**20))
    assert len(decode.read_file(tmp_path / 'x.jpg')) == 2**20
    with (tmp_path / 'x.jpg').open('r+b') as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match=r'x.jpg: larger than 1 MiB'):
        decode.read_file(tmp_path / 'x.jpg')


@pytest.mark.parametrize('name', ['nul\0.jpg', 'x' * 300 + '.jpg', 'new\nline.jpg', '\x1b[31mred.jpg'])
def test_strange_names_are_one_printable_sentence(tmp_path, name):
    with pytest.raises(UserError) as raised:
        decode.picture(f'{tmp_path}/{name}')
    assert str(raised.value).isprintable() and len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ('name', 'installed', 'why'),
    [
        ('x.jxl', True, r'\.jxl is no format that is read here'),
        ('x.heic', False, r"not read without pillow-heif: pip install 'sreml_jax\[heif\]'"),
        ('x.heic', True, 'not an image'),
    ],
)
def test_photographs_of_other_formats_are_named(tmp_path, monkeypatch, name, installed, why):
    monkeypatch.delitem(decode.FORMATS, 'HEIF', raising=False)
    if installed:
        monkeypatch.setitem(decode.FORMATS, 'HEIF', decode.HEIF_SUFFIXES)
    (tmp_path / name).write_bytes(b'\0\0\0\x18ftypheic' + bytes(100))
    with pytest.raises(UserError, match=f'{name}: .*{why}'):
        decode.picture(tmp_path / name)


def test_heic_by_pillow_heif(tmp_path):
    pillow_heif = pytest.importorskip('pillow_heif', reason='pillow-heif is not installed')
    shown = pictures.quarters()
    pillow_heif.from_pillow(Image.fromarray(shown)).save(tmp_path / 'x.heic', quality=95)
    assert np.abs(decode.picture(tmp_path / 'x.heic').astype(int) - shown).mean() < 5


# Damages pictures of the formats whose libraries print, and reads them.
DAMAGED = """
import io, random
from PIL import Image
from sreml_jax.data import decode
from sreml_jax.runtime.errors import UserError
random.seed(0)
for kind, compression in (('TIFF', 'jpeg'), ('TIFF', 'tiff_lzw'), ('TIFF', None), ('JPEG', None)):
    file = io.BytesIO()
    Image.effect_noise((64, 48), 50).save(file, kind, compression=compression)
    for _ in range(150):
        content = bytearray(file.getvalue())
        for _ in range(5):
            content[random.randrange(len(content))] = random.randrange(256)
        try:
            decode.open_picture(bytes(content), 'x')
            print('read')
        except UserError:
            print('refused')
"""


def test_libraries_print_nothing_about_damaged_pictures():
    done = subprocess.run([sys.executable, '-c', DAMAGED], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.count('read') > 30 and done.stdout.count('refused') > 30
    assert not done.stderr


@pytest.mark.parametrize(
    ('box', 'inside'),
    [
        ((2, 3, 7, 5), (2, 3, 7, 5)),
        ((-4, -1, 30, 40), (0, 0, 10, 8)),
        ((5, 5, 5, 5), (5, 5, 6, 6)),
        ((12, 9, 20, 20), (9, 7, 10, 8)),
        ((-5, -5, -1, -1), (0, 0, 1, 1)),
        ((6, 6, 2, 2), (6, 6, 7, 7)),
    ],
)
def test_boxes_are_cut_to_the_picture_and_never_empty(box, inside):
    assert decode.clipped(box, width=10, height=8) == inside


def test_needs_no_tensorflow():
    code = 'import sys, sreml_jax.data.decode; sys.exit("tensorflow" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0
