"""Finding files and reading lists."""

import os

import pytest

from sreml_jax.data.sources import layout
from sreml_jax.runtime.errors import UserError


def test_first_candidate_that_exists_is_found(tmp_path):
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / 'list.txt').touch()
    (tmp_path / 'list.txt').touch()
    assert layout.find(tmp_path, ('a/list.txt', 'b/list.txt', 'list.txt')) == tmp_path / 'b' / 'list.txt'
    assert layout.find(tmp_path, ('a', 'c')) is None


def test_what_is_required_and_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=rf'There is no a/x\.txt or x\.txt in {tmp_path}: buy one\.'):
        layout.require(tmp_path, ('a/x.txt', 'x.txt'), 'buy one.')


def test_table_is_read_past_header_windows_lines_and_blank_end(tmp_path):
    file = tmp_path / 'list.txt'
    file.write_bytes(b'id name\r\n1   one\r\n2 two  \r\n\r\n')
    assert layout.read_table(file, (int, str), header=1) == [[1, 'one'], [2, 'two']]


@pytest.mark.parametrize('line', ['2', '2 two more', 'two 2', '2.5 two'])
def test_damaged_line_is_named(tmp_path, line):
    file = tmp_path / 'list.txt'
    file.write_text(f'1 one\n{line}\n3 three\n')
    with pytest.raises(UserError, match=rf'Line 2 of {file}.*{line}'):
        layout.read_table(file, (int, str))


@pytest.mark.parametrize('word', ['nan', 'inf', '-inf', '1e999', 'x', '9' * 5_000])
def test_numbers_are_finite(word):
    with pytest.raises(ValueError):
        layout.finite(word)
    with pytest.raises(ValueError):
        layout.whole(word)


@pytest.mark.parametrize(
    'path',
    ['/etc/x.jpg', '../x.jpg', 'a/../../x.jpg', 'nul\0.jpg', 'x' * 256, 'a/' * 501, '', '\x1b[31m.jpg'],
)
def test_paths_stay_below_their_folder(path):
    with pytest.raises(ValueError):
        layout.picture_path(path)


def test_a_list_that_names_an_image_twice_is_refused(tmp_path):
    layout.refuse_repeated(tmp_path, [])
    layout.refuse_repeated(tmp_path, ['a', 'b'])
    with pytest.raises(UserError, match='lists a 2 times: put a good copy'):
        layout.refuse_repeated(tmp_path, ['a', 'b', 'a'])


def test_a_pipe_or_an_endless_file_is_no_list(tmp_path):
    os.mkfifo(tmp_path / 'pipe.txt')
    (tmp_path / 'zero.txt').symlink_to('/dev/zero')
    with (tmp_path / 'huge.txt').open('wb') as file:
        file.truncate(2**40)
    for name in ('pipe', 'zero', 'huge'):
        with pytest.raises(UserError, match=f'{name}.txt is no list of images'):
            layout.read_lines(tmp_path / f'{name}.txt')


def test_file_that_is_no_text_is_named(tmp_path):
    file = tmp_path / 'list.txt'
    file.write_bytes(b'\x1f\x8b\x08\x00\xff')
    with pytest.raises(UserError, match=f'Cannot read {file}'):
        layout.read_table(file, (int, str))
