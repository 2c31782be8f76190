"""Paths that no file can have are one sentence."""

from pathlib import Path

import pytest

from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.paths import local


@pytest.mark.parametrize(
    ('text', 'why'),
    [
        ('gs://bucket/index', 'is an address elsewhere'),
        ('gs:/bucket/index', 'is an address elsewhere'),  # as Path writes it
        ('hf://user/name', 'is an address elsewhere'),
        ('a\0b', r'--out=a\\x00b contains a NUL'),
        ('~nobody-of-this-name/x', 'home of a user'),
        ('x' * 5_000, 'File name too long'),
        ('x/' * 5_000, 'File name too long'),
    ],
)
def test_impossible_paths(text, why):
    with pytest.raises(UserError, match=why) as raised:
        local(text, '--out')
    assert len(str(raised.value)) < 200 and str(raised.value).isprintable()


def test_others(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert local('~/x', '--out') == tmp_path / 'x'
    (tmp_path / 'file').touch()
    for path in (tmp_path, tmp_path / 'nowhere', tmp_path / 'file' / 'below', Path('C:x'), 'odd\nname'):
        assert local(path, '--out') == Path(path)
