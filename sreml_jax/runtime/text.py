"""Text from elsewhere (names of files and classes, values of flags), made fit to be printed."""

import unicodedata

# They turn the reading direction, so that a name reads as another one.
_DIRECTIONS = frozenset('\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069')
LONGEST = 4_000  # characters of a sentence, whatever it quotes
_NO_TEXT = ('Cc', 'Cs', 'Zl', 'Zp')  # control characters, surrogates, line and paragraph separators


def printable(text: object, limit: int | None = 200) -> str:
    """Returns text as one line that a terminal and a picture can show.

    Control characters, terminal escapes, line breaks and marks of the reading direction are escaped as Python
    writes them: a newline becomes the two characters \\n.

    Args:
      text: anything; its str is shown.
      limit: characters at most; the middle of a longer text becomes '…'. None: any number.
    """
    shown = str(text)
    if limit is not None:
        shown = _shortened(shown, limit)  # first, since escaping takes time
    if not shown.isprintable():
        shown = ''.join(map(_escaped, shown))
        if limit is not None:
            shown = _shortened(shown, limit)
    return shown


def quoted(value: object) -> str:
    """Returns a value as Python writes it, on one line, and not all of it if it is long."""
    return printable(repr(value))


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    end = (limit - 1) // 2
    return f'{text[: limit - 1 - end]}…{text[len(text) - end :]}'


def _escaped(character: str) -> str:
    if character in _DIRECTIONS or unicodedata.category(character) in _NO_TEXT:
        return character.encode('unicode_escape').decode()
    return character
