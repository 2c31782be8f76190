"""Imports that leave out what takes seconds and is not used."""

import importlib
import sys
from types import ModuleType


def import_without(unused: str, package: str) -> ModuleType:
    """Imports a package, to which `unused` seems not to be installed unless it is imported already."""
    hidden = unused not in sys.modules
    if hidden:
        sys.modules[unused] = None  # type: ignore[assignment]  # "cannot be imported"
    try:
        return importlib.import_module(package)
    finally:
        if hidden:
            del sys.modules[unused]
