"""Mutations of files, and what becomes of them: refused in one sentence or accepted, nothing else.

The test run tries some hundred cases of each kind. `SREML_FUZZ=N` in the environment tries N times as many.
"""

import collections
import os
import random
from collections.abc import Callable, Iterable, Iterator

from sreml_jax.runtime.errors import UserError

TIMES = int(os.environ.get('SREML_FUZZ', '1'))


def mutated(content: bytes, seed: int) -> bytes:
    """Returns the content with some bytes changed, cut out, doubled, or its end cut off."""
    rng, changed = random.Random(seed), bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at, length = rng.randrange(len(changed)), rng.randint(1, 20)
        kind = rng.choice(('byte', 'byte', 'byte', 'bit', 'cut', 'double', 'end'))
        if kind == 'byte':
            changed[at] = rng.randrange(256)
        elif kind == 'bit':
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 'cut' and len(changed) > 2 * length:
            del changed[at : at + length]
        elif kind == 'double':
            changed[at:at] = changed[at : at + length]
        elif kind == 'end' and at > 20:
            del changed[at:]
    return bytes(changed)


def cases(contents: Iterable[bytes], number: int) -> Iterator[bytes]:
    """Yields `number` mutations of each content, times SREML_FUZZ."""
    for content in contents:
        yield from (mutated(content, seed) for seed in range(number * TIMES))


def count(read: Callable[[bytes], object], contents: Iterable[bytes]) -> collections.Counter:
    """Counts the contents that `read` takes and refuses; only a printable UserError may refuse."""
    counts: collections.Counter[str] = collections.Counter()
    for content in contents:
        try:
            read(content)
            counts['accepted'] += 1
        except UserError as error:
            assert str(error).isprintable() and len(str(error)) < 2_000, str(error)
            counts['refused'] += 1
    print(dict(counts))
    return counts
