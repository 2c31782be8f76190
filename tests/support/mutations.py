"""Damage for fuzzers: bytes and JSON values that differ a little from good ones."""

import copy
import os
from typing import Any

import numpy as np

ODD = (
    None,
    True,
    -1,
    0,
    2**31,
    10**30,
    1e300,
    float('nan'),
    float('inf'),
    '',
    'x',
    '\0',
    '../x',
    [],
    [1],
    {},
)
ODD += ('x' * 5_000, '\x1b[31m', {'a': {}}, 0.5)


def cases(short: int) -> int:
    """How many cases a fuzzer tries: SREML_FUZZ_CASES=N asks for the long form."""
    return int(os.environ.get('SREML_FUZZ_CASES', short))


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """Returns the bytes with one kind of damage: flips, a hole, an insertion, a cut, zeros or noise."""
    size = len(content)
    place, length = int(random.integers(size + 1)), int(2 ** random.uniform(0, 10))
    noise = random.bytes(length)
    kind = random.integers(8)
    if kind < 2:
        changed = bytearray(content)
        for _ in range(1 if kind else 8):
            if size:
                changed[random.integers(size)] ^= 1 << random.integers(8)
        return bytes(changed)
    return (
        content[:place] + content[place + length :],
        content[:place] + noise + content[place:],
        content[:place],
        content[:place] + bytes(length) + content[place + length :],
        content[:place] + noise + content[place + length :],
        b'' if random.integers(2) else noise,
    )[kind - 2]


def odd_object(value: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    """Returns a JSON object of which one field, at any depth, is missing or of another value."""
    value = copy.deepcopy(value)
    inside = value
    while True:
        field = list(inside)[random.integers(len(inside))]
        if not (isinstance(inside[field], dict) and inside[field] and random.integers(3)):
            break
        inside = inside[field]
    if random.integers(4):
        inside[field] = ODD[random.integers(len(ODD))]
    else:
        del inside[field]
    return value
