"""Strange command lines are accepted, or refused by one sentence and exit code 2; nothing else happens.

The long form: SREML_FUZZ_CASES=4000 python -m pytest -n0 -s tests/fuzz/test_flags_fuzz.py
"""

import sys
from collections import Counter

import numpy as np
import pytest
from absl.testing import flagsaver
from support.mutations import cases

from sreml_jax.cli import command_line, flags, start, validation
from sreml_jax.configs import default
from sreml_jax.runtime import sharding
from sreml_jax.runtime.errors import UserError

CASES = 400
pytestmark = pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')  # ml_collections'
FIELDS = sorted(default.get_config())
VALUES = ('0', '1', '-1', '2', '7', '0.5', '1.5', '1e9', '1e400', '-1e-300', 'nan', 'inf', '-inf', '1' * 400)
VALUES += ('', ' ', 'True', 'no', 'None', '()', '(1,', '1,1', '1,2', '.5,.5,.5', '1.0,1', 'a,b', '[1,[2]]')
VALUES += ('{}', '{"a": 1}', '"x"', "'", '\\', '\n', 'a\nb', '\x1b[31mred', '\0', '\x7f', '\u202ex', 'é')
VALUES += ('x' * 5_000, 'x ' * 2_500, '1,' * 2_000 + '1', '\x1b' * 5_000, '\udcff', 'exit()', '$HOME')
VALUES += ('resnet18', 'resnet19', 'cub', 'imagenet', 'x.npz', 'gem', 'pooled', 'bfloat16', 'float32')
PATHS = ('/nowhere', '~nouser/x', '~', 'a\0b', 'x' * 5_000, 'y/' * 2_500, 'gs://bucket/x', 'file:/x', ',')
PATHS += ('/dev/null', '/dev/null/x', '/proc/1/x', '.', '..', '/', '//', '\n', 'C:\\x', 'a,b', '\x1b[2J', '*')
FLAGS = sorted({flag for mode in flags.MODES.values() for flag in (*mode.needs, *mode.takes)})
FLAGS += ['workdir', 'mode', 'config', 'coordinator', 'processes', 'process', 'novectors', 'wrokdir']


def argument(random: np.random.Generator) -> list[str]:
    """Returns the words of one strange argument."""

    def one(choices):
        return str(choices[random.integers(len(choices))])

    kind = random.integers(10)
    if kind < 5:
        field = one(FIELDS) if random.integers(12) else one(VALUES)
        name = f'config.{field}'
        value = one(PATHS) if field.endswith('_dir') or random.integers(8) == 0 else one(VALUES)
    elif kind < 8:
        name = one(FLAGS)
        value = one(list(flags.MODES)) if name == 'mode' and random.integers(4) else one(VALUES + PATHS)
    elif kind == 8:
        return [one(VALUES + PATHS)]
    else:
        return [f'--mode={one(list(flags.MODES))}']
    dashes = one(('--', '--', '--', '-'))
    separate = random.integers(6)
    if separate == 0:
        return [f'{dashes}{name}', value]
    return [f'{dashes}{name}'] if separate == 1 else [f'{dashes}{name}={value}']


def begin(arguments: list[str]) -> None:
    """Does what the program does before its work: parses the command line, and checks what can be seen."""
    try:
        command_line.parse(['sreml', *arguments])
        flags.check_needed(flags.MODE.value)
        config, workdir = flags.CONFIG.value, flags.workdir()
        validation.check(config)
        sharding.mesh_shape(config, len(config.gpu_ids) or 1)
        start.check_writable(workdir)
    except UserError as error:
        sys.exit(command_line.complain(str(error)))


def test_strange_command_lines(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    counts = Counter()
    kept = flagsaver.save_flag_values()
    for case in range(cases(CASES)):
        random = np.random.default_rng(case)
        arguments = [word for _ in range(random.integers(1, 4)) for word in argument(random)]
        monkeypatch.setattr(sys, 'argv', ['sreml', *arguments])
        try:
            begin(arguments)
            output, errors = capsys.readouterr()
            assert (output, errors) == ('', ''), (case, arguments)
            counts['accepted'] += 1
        except SystemExit as end:
            output, errors = capsys.readouterr()
            if end.code == 0:
                assert {'--help', '--version'} & {*arguments}, (case, arguments)
                continue
            assert end.code == 2 and output == '', (case, arguments)
            assert errors.startswith('error: ') and errors.endswith('\n'), (case, arguments, errors)
            assert errors[:-1].isprintable() and len(errors) < 1_500, (case, arguments, errors)
            counts['refused'] += 1
        except BaseException as error:
            raise AssertionError(f'case {case}: {arguments}') from error
        finally:
            flagsaver.restore_flag_values(kept)
            kept = flagsaver.save_flag_values()
    assert not list(tmp_path.iterdir())
    assert counts.total() == cases(CASES) and len(counts) == 2
    print(f'\n{cases(CASES)} command lines: {dict(sorted(counts.items()))}')


@pytest.mark.parametrize('value', ['x' * 5_000, 'x ' * 2_500, '\x1b' * 5_000])
def test_no_value_is_echoed_at_length(value, monkeypatch, capsys, tmp_path):
    """For every field and flag: the sentence keeps its advice, and the value is shortened."""
    monkeypatch.chdir(tmp_path)
    kept = flagsaver.save_flag_values()
    refused = 0
    for name in (*(f'config.{field}' for field in FIELDS), *FLAGS):
        arguments = [f'--{name}={value}']
        monkeypatch.setattr(sys, 'argv', ['sreml', *arguments])
        try:
            begin(arguments)
        except SystemExit as end:
            refused += 1
            errors = capsys.readouterr().err
            assert end.code == 2 and len(errors) < 900 and errors[:-1].isprintable(), (name, errors)
        flagsaver.restore_flag_values(kept)
        kept = flagsaver.save_flag_values()
    assert refused > 40
