"""Every kind of picture file gives the pixels that a viewer shows, or a message."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support import pictures

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


def test_every_suffix_is_of_a_format_that_pil_opens():
    Image.init()
    opened = {suffix for suffix, name in Image.registered_extensions().items() if name in decode.FORMATS}
    assert set(decode.SUFFIXES) <= opened and set(decode.FORMATS) <= set(Image.OPEN)


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
