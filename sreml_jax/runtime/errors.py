"""The exceptions that end the program with one sentence."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user's, said in one sentence: what was wrong, where, what to do.

    `main` prints it without a traceback and exits with code 2.
    """


class RunError(Exception):
    """A failure during a run (a loss that is not finite, a full disk), described in one sentence.

    `main` prints it without a traceback and exits with code 1.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ' (did you mean a, b?)' for the names nearest to `word`, or '' where none is near."""
    close = difflib.get_close_matches(str(word), [str(k) for k in known])
    return f' (did you mean {", ".join(close)}?)' if close else ''
