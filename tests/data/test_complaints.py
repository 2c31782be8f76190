"""JPEGs that libjpeg decodes with a warning: nothing reaches the terminal, and PIL decodes them later."""

import io
import os
import sys
import threading

import numpy as np
import pytest
from PIL import Image
from support.tiny import tiny_config

from sreml_jax import data
from sreml_jax.data.complaints import Watched

LINE = b'Corrupt JPEG data: 3 extraneous bytes before marker 0xd9\n'


def damaged_jpeg() -> bytes:
    """A JPEG with bytes between its data and its end marker, which every decoder skips."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(file, 'JPEG')
    content = file.getvalue()
    return content[:-2] + b'\x12\x34' * 50 + content[-2:]


def test_a_jpeg_that_libjpeg_warns_of_is_decoded_without_a_word(tmp_path, capfd):
    for split in ('train', 'test'):
        for label in range(2):
            folder = tmp_path / 'data' / split / f'{split}{label}'
            folder.mkdir(parents=True)
            for i in range(2):
                Image.new('RGB', (24, 24), (99 * label, 9, 99 * i)).save(folder / f'{i}.jpg')
    (tmp_path / 'data' / 'train' / 'train0' / '0.jpg').write_bytes(damaged_jpeg())
    config = tiny_config(
        data_name='folder', data_dir=str(tmp_path / 'data'), prepared_dir=str(tmp_path / 'prepared')
    )
    capfd.readouterr()
    dataset = data.load(config)
    [images] = dataset.images('train', np.arange(4), 4)
    assert images.shape == (4, 16, 16, 3) and np.ptp(images[0]) > 100
    printed = capfd.readouterr()
    assert 'JPEG' not in printed.err + printed.out


def test_what_is_printed_is_noticed_and_only_libjpegs_lines_are_dropped(capfd):
    with Watched() as watched:
        assert watched.complains(lambda: 7) == (7, False)
        assert watched.complains(lambda: os.write(2, LINE)) == (len(LINE), True)
        os.write(2, b'something else\n')
        print('of Python', file=sys.stderr)
        watched.terminal.write('progress\n')
    assert sorted(capfd.readouterr().err.splitlines()) == ['of Python', 'progress', 'something else']


@pytest.mark.parametrize('workers', [2, 8])
def test_a_complaint_belongs_to_its_picture_alone(workers, capfd):
    found = {}
    with Watched() as watched:

        def work(worker):
            for i in range(20):
                bad = (worker, i) in {(0, 3), (1, 17)}
                found[worker, i] = watched.complains(lambda bad=bad: bad and os.write(2, LINE))[1]

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {key for key, complained in found.items() if complained} == {(0, 3), (1, 17)}
    assert capfd.readouterr().err == ''
