"""Paths of the command line that no file system could have: refused before any work is done."""

from pathlib import Path

from ml_collections import ConfigDict

from sreml_jax.runtime.errors import UserError

FLAGS = ('workdir', 'out', 'index', 'images', 'query')
FIELDS = ('data_dir', 'prepared_dir', 'compilation_cache')
_LONGEST, _LONGEST_NAME = 4095, 255  # bytes, on Linux


def check_config(config: ConfigDict) -> None:
    """Raises UserError for the first field of the config that is no path."""
    for field in FIELDS:
        check(f'config.{field}', config[field])


def check(name: str, value: str) -> None:
    """Raises UserError if `value`, which the flag or field `name` gives, is no path of this machine."""
    shown = ascii(value if len(value) <= 60 else value[:57] + '...')[1:-1]
    if '\0' in value:
        raise UserError(f'{name}={shown} holds a NUL character, which no path has; leave it out')
    names = [len(part.encode(errors='replace')) for part in value.split('/')]
    if sum(names) + len(names) > _LONGEST or max(names) > _LONGEST_NAME:
        raise UserError(f'{name}={shown} is {len(value):,} characters long; take a shorter path')
    if '://' in value:
        raise UserError(f'{name}={shown} is an address, not a path; take a folder of this machine')
    try:
        Path(value).expanduser()
    except RuntimeError:
        user = shown.partition('/')[0]
        raise UserError(f'{name}={shown} begins with {user}, which no user of this machine has') from None
