"""Damaged pictures are decoded or refused, and whatever preparation calls plain tensorflow decodes.

`SREML_FUZZ=100 python -m pytest -s -n0 tests/fuzz/test_images_fuzz.py` tries 100 times as many.
"""

import pytest
from support import fuzz, pictures

from sreml_jax.data import decode
from sreml_jax.data.complaints import Watched
from sreml_jax.data.tensorflow_import import import_tensorflow

KINDS = {
    'jpeg': lambda: [pictures.encoded(pictures.quarters(), 'JPEG', progressive=p) for p in (False, True)],
    'png': lambda: [pictures.encoded(pictures.quarters()), pictures.animated_png(pictures.quarters())],
    'tiff': lambda: [pictures.encoded(pictures.quarters(), 'TIFF', compression=c) for c in (None, 'jpeg')],
    'other': lambda: [pictures.encoded(pictures.quarters(), kind) for kind in ('WEBP', 'GIF', 'BMP', 'AVIF')],
}


@pytest.mark.filterwarnings('ignore::UserWarning:PIL', 'ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize('kind', KINDS)
def test_damaged_pictures(kind, capfd):
    import_tensorflow()
    from sreml_jax.data import tf_pictures

    def read(content):
        with decode.opened(content, 'x') as (picture, plain):
            assert picture.mode == 'RGB' and picture.width * picture.height <= decode.MOST_PIXELS
            if plain:  # raises nothing, and what is printed is noticed
                watched.complains(lambda: tf_pictures.reads(content, *picture.size))

    with Watched() as watched:
        counts = fuzz.count(read, fuzz.cases(KINDS[kind](), 150))
    assert counts['refused'] and counts['accepted']
    # Tensorflow's own log is on if another test has imported it first; the program turns it off.
    printed = capfd.readouterr().err.splitlines()
    assert not [line for line in printed if not line.startswith('W0000')]
