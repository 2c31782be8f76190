"""Which files a folder or a glob means, and what is read of them."""

import hashlib
import os
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from support import pictures
from support.folders import close

from sreml_jax.data import photographs
from sreml_jax.data.photographs import Found, Pattern
from sreml_jax.runtime.errors import UserError

FILES = [
    'top.jpg',
    'notes.txt',
    '.hidden.jpg',
    'cats/a.png',
    'cats/b.JPG',
    'cats/kittens/c.webp',
    'dogs/d.png',
    'dogs/.thumbs/e.png',
    'odd [1]/f.png',
]


@pytest.fixture
def tree(tmp_path):
    """A folder of empty files."""
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize(
    ('pattern', 'names'),
    [
        ('', ['top.jpg', 'cats/a.png', 'cats/b.JPG', 'cats/kittens/c.webp', 'dogs/d.png', 'odd [1]/f.png']),
        ('cats', ['cats/a.png', 'cats/b.JPG', 'cats/kittens/c.webp']),
        ('*', ['top.jpg']),
        ('*/*', ['cats/a.png', 'cats/b.JPG', 'dogs/d.png', 'odd [1]/f.png']),
        ('*/*.png', ['cats/a.png', 'dogs/d.png', 'odd [1]/f.png']),
        ('**', ['top.jpg', 'cats/a.png', 'cats/b.JPG', 'cats/kittens/c.webp', 'dogs/d.png', 'odd [1]/f.png']),
        ('**/*.webp', ['cats/kittens/c.webp']),
        ('c*/**/*', ['cats/a.png', 'cats/b.JPG', 'cats/kittens/c.webp']),
        ('odd [1]', ['odd [1]/f.png']),
        ('odd [1]/f.png', ['odd [1]/f.png']),
        ('notes.txt', ['notes.txt']),  # named as a file
        ('**/kittens/*.png', []),
        ('nowhere', []),
    ],
)
def test_files_of_a_pattern(tree, pattern, names):
    found = [file.path for file in Pattern(str(tree / pattern)).find()]
    assert found == [str(tree / name) for name in names]
    every = [str(tree / name) for name in FILES if not name.startswith('.') and '/.' not in name]
    pictures_or_named = [p for p in every if not p.endswith('.txt') or pattern == 'notes.txt']
    matching = [path for path in pictures_or_named if Pattern(str(tree / pattern)).matches(path)]
    assert sorted(matching) == sorted(found)


def test_files_that_are_no_pictures_are_counted_and_named(tree):
    for i in range(6):
        (tree / 'cats' / f'{i}.txt').touch()
    pattern = Pattern(str(tree))
    for _ in range(2):  # each time anew
        assert len(list(pattern.find())) == 6
        assert pattern.left_out() == (
            '7 files are no pictures and are left out: notes.txt, cats/0.txt, cats/1.txt, cats/2.txt, '
            'cats/3.txt, ...'
        )
    named = Pattern(str(tree / '*' / '*.png'))  # nobody asked for those of other names
    assert list(named.find()) and not named.left_out()


def test_a_file_that_is_gone_still_matches(tree):
    assert Pattern(str(tree / 'gone.jpg')).matches(str(tree / 'gone.jpg'))
    assert Pattern(str(tree / 'gone')).matches(str(tree / 'gone' / 'x.jpg'))
    assert not Pattern(str(tree / 'gone')).matches(str(tree / 'gone2' / 'x.jpg'))


def test_the_class_is_the_folder(tree):
    labels = {os.path.basename(f.path): f.label for f in Pattern(str(tree)).find()}  # noqa: PTH119
    assert labels['top.jpg'] is None
    assert labels['a.png'] == 'cats'
    assert labels['c.webp'] == 'kittens'


def test_a_link_in_a_circle_ends(tree):
    (tree / 'cats' / 'again').symlink_to(tree)
    assert len(list(Pattern(str(tree)).find())) == 6


def test_a_folder_is_walked_only_where_the_glob_leads(tree, monkeypatch):
    walked = []
    scandir = os.scandir
    monkeypatch.setattr(os, 'scandir', lambda folder: walked.append(folder) or scandir(folder))
    list(Pattern(str(tree / '*.jpg')).find())
    assert walked == [str(tree)]


def test_a_folder_that_cannot_be_looked_into_is_reported(tree, monkeypatch):
    close(tree / 'cats', monkeypatch)
    found = list(Pattern(str(tree)).find())
    problem = f'{tree}/cats: Permission denied'
    names = ['top.jpg', 'cats/', 'dogs/d.png', 'odd [1]/f.png']
    assert [(file.path, file.problem) for file in found] == [
        (f'{tree}/{name}', problem if name == 'cats/' else '') for name in names
    ]
    (photograph,) = photographs.read([(found[1], '')], 8)
    assert photograph.problem == problem and photograph.image is None
    for text, covered in (('', True), ('*/*.png', True), ('cats', True), ('*', False), ('dogs', False)):
        assert Pattern(str(tree / text)).covers(f'{tree}/cats/') == covered


def test_no_more_than_names_are_kept_of_a_folder(tmp_path):
    for i in range(5_000):
        (tmp_path / f'{i:05}.jpg').touch()
    tracemalloc.start()
    try:
        next(Pattern(str(tmp_path)).find())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5_000 * 100  # a str of 9 letters takes 58 bytes, its place in a list 8, twice


def test_pixels_are_those_of_pil(tmp_path):
    # Photographs larger and smaller than what is asked for, one of them turned.
    random = np.random.default_rng(0)
    for i, size in enumerate(((90, 70), (20, 31), (24, 24))):
        pixels = random.integers(0, 256, (*size, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f'{i}.png')
    made = photographs.images(sorted(tmp_path.iterdir()), 24)
    for image, path in zip(made, sorted(tmp_path.iterdir()), strict=True):
        want = np.asarray(Image.open(path).resize((24, 24), Image.Resampling.BILINEAR), int)
        assert np.abs(image.astype(int) - want).max() <= 1


def test_what_is_reported_of_a_file(tmp_path):
    names = pictures.write_broken(tmp_path / 'broken')
    turned = np.zeros((6, 4, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(turned).save(tmp_path / 'turned.jpg', exif=exif)
    good = tmp_path / 'turned.jpg'
    files = [Found(str(tmp_path / 'broken' / name), 'x') for name in names]
    known = hashlib.sha256(good.read_bytes()).hexdigest()
    files = [(file, '') for file in files] + [(Found(str(good), None), ''), (Found(str(good), None), known)]
    *broken, new, met = photographs.read(files, 8)
    assert all(p.image is None and p.path in p.problem for p in broken)
    assert (new.width, new.height, new.sha256, new.problem) == (6, 4, known, '')
    assert new.image.shape == (8, 8, 3)
    assert met.image is None and met.problem == '' and met.sha256 == known


def test_a_missing_photograph_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match='No such file'):
        photographs.images([tmp_path / 'gone.jpg'], 8)


def test_names_that_no_table_could_hold_are_reported_apart_and_left_out(tmp_path):
    for name in (b'\xfe.png', b'\xff.png'):
        with open(os.fsencode(tmp_path) + b'/' + name, 'wb') as file:  # noqa: PTH123
            file.write(pictures.encoded(np.zeros((4, 4, 3), np.uint8)))
    found = list(Pattern(str(tmp_path)).find())
    assert [file.path for file in found] == [f'{tmp_path}/\\xfe.png', f'{tmp_path}/\\xff.png']
    for photograph in photographs.read([(file, '') for file in found], 8):
        assert photograph.image is None and 'not UTF-8' in photograph.problem
        photograph.problem.encode()
