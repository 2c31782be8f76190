"""Parses the command line: a mistake ends the program with one sentence and exit code 2."""

import sys
from pathlib import Path

from absl import flags as absl_flags
from ml_collections import ConfigDict

from sreml_jax.cli import flags, help
from sreml_jax.configs import default
from sreml_jax.runtime import paths
from sreml_jax.runtime.errors import UserError, did_you_mean
from sreml_jax.runtime.text import LONGEST, printable

PACKAGED = Path(default.__file__).resolve().parent  # the config files that are installed with the program

# The packaged configs had a package of their own before they moved into the program's.
_OLD_IMPORT = (
    '{} imports configs, which is only found in a checkout; write "from sreml_jax.configs import default"'
)
_HELP = ('help', 'h', 'helpshort')
_KINDS = {
    'invalid literal for int()': 'a whole number',
    'could not convert string to float': 'a number',
    'Non-boolean argument': 'true or false',
}


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; a mistake ends with one sentence and exit code 2."""
    asked = {argument.lstrip('-') for argument in argv[1:] if argument.startswith('-')}
    if not asked.isdisjoint((*_HELP, 'version')):
        print(help.version() if 'version' in asked else help.text(flags.MODES))
        sys.exit(0)
    try:
        sys.argv[1:] = _file_first(argv[1:])  # ml_collections reads it
        default_config = [] if flags.given('config') else [f'--config={PACKAGED / "glyphs.py"}']
        rest = absl_flags.FLAGS([argv[0], *default_config, *sys.argv[1:]])
        if len(rest) > 1:
            raise UserError(f"'{printable(rest[1])}' is no option; options begin with --, see --help")
    except ModuleNotFoundError as error:
        if error.name != 'configs':
            raise
        sys.exit(complain(_OLD_IMPORT.format(sys.argv[1].partition('=')[2])))
    except (absl_flags.Error, AttributeError, TypeError, ValueError, UserError) as error:
        sys.exit(complain(_sentence(error)))
    except (MemoryError, RecursionError):  # Python's parser over a value of thousands of parts
        sys.exit(complain('a value has too many parts for Python to read; shorten it'))
    return rest


def complain(sentence: str) -> int:
    """Prints what is wrong, on one line; returns the exit code of a user's mistake."""
    print(f'error: {printable(sentence, LONGEST)}', file=sys.stderr)
    return 2


def _sentence(error: Exception) -> str:
    """Returns what is wrong with a flag; where Python says it of its own int() or float(), in other words."""
    text = ' '.join(str(error).split())
    given, _, why = text.removeprefix('flag ').partition(': ')
    kind = next((kind for python, kind in _KINDS.items() if python in why), None)
    # The middle of a long text is the user's value: what absl says of it stands before and after it.
    return f'{printable(given)} is not {kind}' if kind else printable(text, 400)


def _file_first(arguments: list[str]) -> list[str]:
    """Returns the arguments with the config file, if one is named, in front, where ml_collections wants it.

    Raises UserError for a config file or field that is not there: ml_collections shows a traceback.
    """
    fields: ConfigDict = default.get_config()
    words, files, others = iter(arguments), [], []
    for word in words:
        if not word.startswith('-'):  # the value of the flag before it
            others.append(word)
            continue
        name, _, value = word.lstrip('-').partition('=')
        field = name.removeprefix('config.')
        if name == 'config':
            files.append(f'--config={_config_file(value or next(words, ""))}')
            continue
        if field != name and field.removeprefix('no') not in fields and field not in fields:
            raise UserError(
                f"config has no field '{printable(field)}'{did_you_mean(field, fields)}; configs/default.py "
                'lists all'
            )
        others.append(word)
    return files + others


def _config_file(name: str) -> Path:
    """Returns the file that is meant; configs/<name>.py may be a packaged one where the user has none."""
    path = paths.local(name, '--config')
    if path.is_file():
        return path
    known = {f'configs/{p.name}': p for p in sorted(PACKAGED.glob('[!_]*.py'))}
    if path.as_posix() not in known:
        raise UserError(f'there is no config file {path}{did_you_mean(name, known)}; see {", ".join(known)}')
    return known[path.as_posix()]
