"""Versions of the packages that made a checkpoint or an index."""

import platform
from importlib import metadata

import sreml_jax

PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def installed() -> dict[str, str]:
    """Returns the versions that a checkpoint carries, by package."""
    found = {'sreml_jax': sreml_jax.__version__, 'python': platform.python_version()}
    return found | {package: metadata.version(package) for package in PACKAGES}


def changed(saved: dict[str, str]) -> str:
    """Returns 'jax 0.10.2 to 0.11.2, ...': what is installed now instead of what saved a checkpoint."""
    now = installed()
    return ', '.join(f'{p} {v} to {now[p]}' for p, v in saved.items() if p in now and v != now[p])
