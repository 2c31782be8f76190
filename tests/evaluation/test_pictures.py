"""retrievals.png: which images it shows, in which frame, under which name."""

import numpy as np
from PIL import Image, ImageColor

from sreml_jax.data.in_memory import ArrayDataset
from sreml_jax.drawing.contact_sheet import RIGHT, WRONG, draw
from sreml_jax.evaluation.pictures import choose_queries, drop, save_retrievals

GREEN, RED = ImageColor.getrgb(RIGHT), ImageColor.getrgb(WRONG)
BLUE, YELLOW = (0, 0, 200), (200, 200, 0)


def colors(picture):
    """How many pixels there are of each color."""
    return {c: n for n, c in picture.getcolors(picture.width * picture.height)}


def plain(color, *shape):
    """Images of one color, which captions, being gray, never have."""
    return np.broadcast_to(np.array(color, np.uint8), (*shape, 3))


def test_frames_tell_right_from_wrong():
    query, neighbors = plain(BLUE, 1, 20, 20), plain(YELLOW, 1, 3, 20, 20)
    names = [['a', 'b', 'a']]
    seen = [
        colors(draw(query, neighbors, np.array([right]), ['a'], names))
        for right in ([False] * 3, [True, False, False], [True, False, True])
    ]
    one_frame = 138**2 - 128**2
    for color, sign in ((GREEN, 1), (RED, -1)):
        assert seen[1][color] - seen[0][color] == sign * one_frame
        assert seen[2][color] - seen[1][color] == sign * one_frame
    assert seen[0][YELLOW] == 3 * 128**2
    assert seen[0][BLUE] == 128**2


def test_a_wide_image_keeps_its_shape():
    page = draw(plain(BLUE, 1, 5, 5), plain(YELLOW, 1, 1, 10, 40), np.array([[True]]), ['a'], [['b']])
    assert colors(page)[YELLOW] == 128 * 32


def test_long_names_are_shortened_in_the_middle():
    image = np.zeros((1, 8, 8, 3), np.uint8)
    names = 'Japanese_katakana.character07', 'Japanese_katakana.character12'
    first, second, long = (
        np.asarray(draw(image, image[None], np.array([[True]]), [name], [[name]]))
        for name in (*names, names[0] * 9)
    )
    assert first.shape == long.shape
    assert (first != second).any()  # their ends still differ


def test_queries_are_of_different_classes_and_always_the_same():
    labels = np.repeat(np.arange(40), 5)
    chosen = choose_queries(labels, 8)
    assert len(set(labels[chosen])) == 8
    np.testing.assert_array_equal(chosen, choose_queries(labels, 8))
    few = choose_queries(np.array([1, 1, 1, 2, 2]), 4)
    assert len(set(few)) == 4
    assert set(choose_queries(np.array([5, 5]), 8)) == {0, 1}


def test_drop_leaves_the_query_out():
    assert drop(np.array([7, 3, 5]), 7).tolist() == [3, 5]
    assert drop(np.array([3, 7, 5]), 7).tolist() == [3, 5]
    assert drop(np.array([3, 4, 5]), 7).tolist() == [3, 4]  # others tied it away


def gray_levels(labels, first):
    """One image an entry, of a gray level of its own."""
    levels = np.arange(first, first + len(labels), dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (len(labels), 16, 16, 3)).copy()


def test_the_query_is_not_its_own_neighbor(tmp_path):
    labels = np.repeat(np.arange(4), 3)
    images = gray_levels(labels, 100)
    dataset = ArrayDataset('x', {'train': images, 'test': images}, {'train': labels, 'test': labels})
    embeddings = np.eye(4, dtype=np.float32)[labels]
    path = tmp_path / 'retrievals.png'
    save_retrievals(path, dataset, embeddings, embeddings, rows=1, columns=2)
    assert [p.name for p in tmp_path.iterdir()] == ['retrievals.png']
    seen = colors(Image.open(path))
    query = choose_queries(labels, 1)[0]
    for i in np.flatnonzero(labels == labels[query]):  # the query and its two class mates, once each
        level = 100 + i
        assert 128**2 <= seen[level, level, level] < 128**2 + 100
    assert RED not in seen or seen[RED] < 138**2 - 128**2  # the legend's sample alone


def test_query_and_gallery(tmp_path):
    labels = {'train': np.zeros(2, int), 'query': np.array([0, 1]), 'gallery': np.array([1, 1, 2])}
    images = {
        split: gray_levels(x, first) for (split, x), first in zip(labels.items(), (0, 100, 200), strict=True)
    }
    dataset = ArrayDataset('x', images, labels)
    query, gallery = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[[1, 1, 0]]
    save_retrievals(tmp_path / 'r.png', dataset, query, gallery, rows=5, columns=2)
    seen = colors(Image.open(tmp_path / 'r.png'))
    one_frame = 138**2 - 128**2
    assert 2 * one_frame <= seen[GREEN] < 3 * one_frame  # query 1 finds 200 and 201
    assert 2 * one_frame <= seen[RED] < 3 * one_frame  # query 0 finds 202, and whatever comes next
    assert seen[202, 202, 202] >= 128**2


def test_a_sheet_of_matches_has_no_frames_and_rows_of_any_length():
    blue, wide = np.full((4, 4, 3), BLUE, np.uint8), np.full((10, 40, 3), YELLOW, np.uint8)
    page = draw([blue, blue], [[blue, wide], [wide]], None, ['a', 'b'], [['1', '2'], ['3']])
    seen = colors(page)
    assert GREEN not in seen and RED not in seen
    assert (seen[BLUE], seen[YELLOW]) == (3 * 128**2, 2 * 128 * 32)
