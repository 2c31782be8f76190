"""A contact sheet of any pictures under any names."""

import numpy as np
import pytest

from sreml_jax.drawing.contact_sheet import draw

BLACK = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize('name', ['', 'a', '日本語', 'x' * 5_000, 'two\nlines', '\x1b[31mred\r\0', '\n'])
def test_a_name_changes_the_caption_and_not_the_size(name):
    page = draw([BLACK], [[BLACK]], None, [name], [[name]])
    assert page.size == draw([BLACK], [[BLACK]], None, ['other'], [['other']]).size


def test_one_row_a_query():
    one, three = (draw([BLACK] * n, [[BLACK]] * n, None, ['q'] * n, [['m']] * n) for n in (1, 3))
    assert one.width == three.width
    assert three.height - one.height == 2 * (128 + 2 * 5 + 12 + 24)  # tile, frames, gap, caption
