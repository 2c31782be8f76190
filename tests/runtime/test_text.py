"""Names as they are printed."""

import logging

import pytest

from sreml_jax import main
from sreml_jax.runtime.text import LONGEST, printable, quoted


@pytest.mark.parametrize(
    ('text', 'shown'),
    [
        ('plain name.jpg', 'plain name.jpg'),
        ('Zoë 日本 \N{GRINNING FACE}', 'Zoë 日本 \N{GRINNING FACE}'),
        ('non\u00a0breaking \u3000 family \U0001f468\u200d\U0001f469', None),  # spaces and a joiner stay
        ('two\nlines', r'two\nlines'),
        ('a\tb\rc\0', r'a\tb\rc\x00'),
        ('\x1b[31mred\x9b0m\x7f', r'\x1b[31mred\x9b0m\x7f'),
        ('gpj\u202eexe', r'gpj\u202eexe'),
        ('a\u2028b\x85c', r'a\u2028b\x85c'),
        ('not UTF-8: \udcff', r'not UTF-8: \udcff'),
        (7, '7'),
    ],
)
def test_what_no_line_can_hold_is_escaped(text, shown):
    assert printable(text) == (text if shown is None else shown)
    printable(text).encode()
    assert len(printable(text).splitlines()) == 1


def test_the_middle_of_a_long_text_is_left_out():
    assert printable('abcdefghij', limit=5) == 'ab…ij'
    assert printable('abcdefghij', limit=10) == 'abcdefghij'
    assert printable('x' * 10_000, limit=None) == 'x' * 10_000
    for limit in (1, 2, 3, 50):
        assert len(printable('\x1b' * 5_000, limit)) == limit
    assert len(printable('y' * 5_000)) == 200


def test_a_value_is_quoted_as_python_writes_it():
    assert quoted('a\x1bb') == r"'a\x1bb'" and quoted((1, 2.5)) == '(1, 2.5)'
    assert len(quoted('x' * 5_000)) == 200 and quoted('x' * 5_000)[-1] == "'"


@pytest.mark.parametrize('name', ['a\x1b[2Jb', 'two\nlines', 'x' * 5_000])
def test_a_log_line_is_one_line_without_terminal_escapes(name):
    record = logging.LogRecord('sreml_jax', logging.WARNING, '', 0, '%s is a class', (name,), None)
    line = main.OneLine('%(message)s').format(record)
    assert line.endswith(' is a class') and line.isprintable() and len(line) <= LONGEST
