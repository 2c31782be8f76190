"""The installed package: a wheel of the checkout, unpacked elsewhere, has all files and its command runs."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from support.paths import ROOT

import sreml_jax


def pip(*arguments: str | Path) -> subprocess.CompletedProcess:
    """Runs pip to its end."""
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the checkout, for building leaves files behind."""
    folder = tmp_path_factory.mktemp('package')
    for name in ('pyproject.toml', 'requirements.txt', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, folder)
    for name in ('sreml_jax', 'configs', 'tests', 'launch'):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))
    try:
        at_hand = int(metadata.version('setuptools').split('.')[0]) >= 77
    except metadata.PackageNotFoundError:
        at_hand = False
    isolation = ['--no-build-isolation'] if at_hand else []
    built = pip('wheel', '--no-deps', *isolation, '--wheel-dir', folder / 'dist', folder)
    if built.returncode and not at_hand:
        pytest.skip('pip could not fetch setuptools to build with')
    assert built.returncode == 0, built.stderr
    (path,) = (folder / 'dist').iterdir()
    return path


def test_the_wheel_holds_all_that_the_program_reads_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in name}
    files = [path.relative_to(ROOT) for part in ('sreml_jax', 'configs') for path in (ROOT / part).rglob('*')]
    wanted = {path.as_posix() for path in files if '__pycache__' not in path.parts and path.suffix}
    assert names == wanted
    assert {'configs/cub.py', 'sreml_jax/look/search.html', 'sreml_jax/py.typed'} <= names


def test_the_installed_command_runs_elsewhere(wheel, tmp_path):
    place = tmp_path / 'installed'
    done = pip('install', '--no-deps', '--no-index', '--target', place, wheel)
    assert done.returncode == 0, done.stderr
    environment = os.environ | {'PYTHONPATH': str(place)}

    def run(*command: str | Path) -> str:
        options = {'capture_output': True, 'text': True, 'timeout': 60}
        done = subprocess.run(command, cwd=tmp_path, env=environment, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    sreml = place / 'bin' / 'sreml'
    assert run(sreml, '--version').startswith(f'sreml_jax {sreml_jax.__version__} (')
    assert f'{place}/configs/default.py lists and explains all' in ' '.join(run(sreml, '--help').split())
