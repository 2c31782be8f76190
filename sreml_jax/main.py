"""python -m sreml_jax.main --config=configs/cub.py --workdir=runs/cub --mode=train|eval|...

Trains a squeezed randomized ensemble on the dataset that the config names, and evaluates its retrieval. Any
field of configs/default.py can be set: --config.model_type=resnet34. With no flags it trains
configs/glyphs.py into runs/glyphs. A config file is Python code: run only those you trust.

cli/flags.py has the flags, cli/command_line.py parses them, cli/help.py prints --help, cli/modes.py runs the
modes.
"""

import logging

from absl import app
from absl import logging as absl_logging

from sreml_jax.cli import command_line, flags, modes, output
from sreml_jax.runtime.errors import RunError, UserError
from sreml_jax.runtime.text import LONGEST, printable


def main(_: list[str]) -> None:
    """Runs the mode; a user's mistake ends with one sentence and exit code 2, a run that broke with 1."""
    quiet_libraries()
    try:
        modes.run(flags.MODE.value, flags.CONFIG.value)
    except UserError as error:
        _end(command_line.complain(str(error)))
    except RunError as error:
        command_line.complain(str(error))
        _end(1)


def _end(code: int) -> None:
    from sreml_jax.runtime import hosts

    hosts.end(code)


def quiet_libraries() -> None:
    """Silences orbax and TFDS, which log every step through absl.

    Their errors are silenced too: they are raised as well, and this program reports failed saves itself.
    """
    absl_logging.set_verbosity(absl_logging.FATAL)
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine('%(message)s'))
    log = logging.getLogger('sreml_jax')
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    log.propagate = False


class OneLine(logging.Formatter):
    """Escapes what a terminal would obey: messages quote names of files and classes."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), LONGEST)


def cli() -> None:
    """The `sreml` command."""
    output.outlive_readers()
    app.run(main, flags_parser=command_line.parse)


if __name__ == '__main__':
    cli()
