"""Paths that a user names."""

import contextlib
import os
import re
from pathlib import Path

from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable


def local(text: str | Path, flag: str) -> Path:
    """Returns a path on this machine, '~' expanded; nothing need be there.

    Args:
      text: of the user.
      flag: that it is the value of, for the message: '--out'.

    Raises:
      UserError: no file could have this path.
    """
    shown = f'{flag}={printable(text, 80)}'
    if re.match(r'[A-Za-z][\w+.-]*:/', str(text)):
        raise UserError(f'{shown} is an address elsewhere; name a path on this machine')
    if '\0' in str(text):
        raise UserError(f'{shown} contains a NUL character, which no path can')
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise UserError(f'{shown} names the home of a user who is not known here') from None
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)
    except OSError as error:
        raise UserError(f'{shown} cannot be used ({error.strerror}); name another path') from None
    except UnicodeError:
        raise UserError(f'{shown} is not UTF-8; name another path') from None
    return path
