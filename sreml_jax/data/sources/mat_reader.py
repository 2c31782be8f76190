"""Reads .mat files in a process of its own: scipy can crash over damaged ones, or take all memory.

`python mat_reader.py FILE...` prints the variables of each file as a line of JSON. It imports nothing of
the package.
"""

import json
import resource
import sys
from typing import Any

import numpy as np
import scipy.io

VARIABLES = ('annotations', 'class_names')
MEMORY = 4 * 2**30  # bytes of address space
SECONDS = 60  # on the CPU


def variables(path: str) -> dict[str, Any]:
    """Returns name -> list of values, or of a struct array name -> field -> list; other values are None."""
    found = scipy.io.loadmat(path, squeeze_me=True, variable_names=VARIABLES)
    return {name: _plain(np.atleast_1d(found[name])) for name in VARIABLES if name in found}


def _plain(array: np.ndarray) -> Any:
    if array.dtype.names:
        return {field: _plain(array[field]) for field in array.dtype.names}
    return [x if isinstance(x, str | int | float) else None for x in map(_item, array.reshape(-1))]


def _item(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    for path in sys.argv[1:]:
        try:
            line = variables(path)
        except Exception as error:  # scipy raises nearly anything over a damaged file
            line = {'error': str(error) or type(error).__name__}
        print(json.dumps(line), flush=True)


if __name__ == '__main__':
    main()
