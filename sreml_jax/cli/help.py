"""What --help and --version print."""

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

import sreml_jax
from sreml_jax.configs import default
from sreml_jax.runtime import versions

if TYPE_CHECKING:
    from sreml_jax.cli.flags import Mode

_EVERY_MODE = ('config', 'workdir')
_HOSTS = ('coordinator', 'processes', 'process')
_WIDTH = 100


def version() -> str:
    """Returns the version of this program and of what decides its results."""
    own, *others = (f'{name} {number}' for name, number in versions.installed().items())
    return f'{own} ({", ".join(others)})'


def text(modes: Mapping[str, 'Mode']) -> str:
    """Returns the whole --help: the modes, then the options of every mode, of each mode and of hosts."""
    parts = [
        f'sreml_jax {sreml_jax.__version__}: squeezed randomized ensembles for metric learning',
        'usage: sreml [--mode=MODE] [--config=FILE] [--config.FIELD=VALUE ...] [--workdir=DIR] [OPTION ...]\n'
        '       (in a checkout without installing: python -m sreml_jax.main ...)',
        _section('modes (default: train)', [(name, mode.does) for name, mode in modes.items()]),
        _section(
            'options of every mode',
            [
                *map(_row, _EVERY_MODE),
                _field_row(),
                ('--version', 'print the version, and those of JAX and Flax'),
            ],
        ),
    ]
    for name, mode in modes.items():
        if own := [_row(flag) for flag in (*mode.needs, *mode.takes) if flag not in _EVERY_MODE]:
            parts.append(_section(f'options of --mode={name}', own))
    parts.append(_section('several hosts, started by hand', [_row(flag) for flag in _HOSTS]))
    return '\n\n'.join(parts)


def explained(flag: str) -> tuple[str, str]:
    """Returns the name of the flag's value, '' if it takes none, and what the flag means."""
    text = (flags.FLAGS[flag].help or '').partition(';\n')[0]  # absl adds a line to repeatable flags
    value, _, meaning = text.partition(': ')
    return ('CHOICE', f'{value[1:-1]}: {meaning}') if value.startswith('<') else (value, meaning)


def _row(flag: str) -> tuple[str, str]:
    value, meaning = explained(flag)
    return f'--{flag}={value}' if value else f'--{flag}', meaning


def _field_row() -> tuple[str, str]:
    fields = Path(default.__file__).resolve()
    return '--config.FIELD=VALUE', f'a field of the config; {fields} lists and explains all'


def _section(title: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [title]
    for name, meaning in rows:
        lines += textwrap.wrap(
            meaning,
            _WIDTH,
            initial_indent=f'  {name:<23} ',
            subsequent_indent=' ' * 26,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return '\n'.join(lines)
