"""The installed package: wheel and sdist hold every file, and the command runs in any folder."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from support.paths import ROOT

import sreml_jax

SOURCES = (
    'pyproject.toml',
    'requirements.txt',
    'README.md',
    'LICENSE',
    'sreml_jax',
    'configs',
    'tests',
    'launch',
)
BUILD = """
import os, sys
from setuptools import build_meta
for folder, build in ((sys.argv[1], build_meta.build_sdist), (sys.argv[2], build_meta.build_wheel)):
    os.makedirs(folder)
    build(folder)
"""


def pip(*arguments: str | Path) -> subprocess.CompletedProcess:
    """Runs pip to its end."""
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def copy(names, folder: Path) -> Path:
    """Copies files and folders of the checkout, links as links; builds never write into the checkout."""
    for name in names:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns('__pycache__', '*.egg-info')
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> Path:
    """Pip's wheel of the checkout."""
    folder = copy(SOURCES, tmp_path_factory.mktemp('package') / 'checkout')
    isolation = [] if setuptools_version() < 77 else ['--no-build-isolation']
    built = pip('wheel', '--no-deps', *isolation, '--wheel-dir', folder.parent / 'wheel', folder)
    if built.returncode and not isolation:
        pytest.skip('pip could not fetch a setuptools that can build this')
    assert built.returncode == 0, built.stderr
    (path,) = (folder.parent / 'wheel').iterdir()
    return path


def setuptools_version() -> int:
    """The installed setuptools' major version; 0: none."""
    try:
        return int(metadata.version('setuptools').split('.')[0])
    except metadata.PackageNotFoundError:
        return 0


def files_of(folder: Path, prefix: str = '') -> set[str]:
    """Names of the files that belong into the package."""
    found = {path.relative_to(folder) for path in folder.rglob('*') if path.is_file() and path.suffix}
    return {f'{prefix}{path.as_posix()}' for path in found if '__pycache__' not in path.parts}


def wanted() -> set[str]:
    own = {name for name in files_of(ROOT / 'sreml_jax', 'sreml_jax/') if '/configs/' not in name}
    return own | files_of(ROOT / 'configs', 'sreml_jax/configs/')


def contents(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in name}


def test_the_wheel_holds_all_that_the_program_reads_and_nothing_else(wheel):
    assert contents(wheel) == wanted()
    assert {'sreml_jax/configs/cub.py', 'sreml_jax/drawing/search.html', 'sreml_jax/py.typed'} <= wanted()


def test_the_only_top_level_package_is_sreml_jax(wheel):
    assert {name.split('/')[0] for name in contents(wheel)} == {'sreml_jax'}


def test_a_source_distribution_builds_the_same_wheel(tmp_path):
    if setuptools_version() < 77:
        pytest.skip('the installed setuptools is too old to build this')
    folder = copy(SOURCES, tmp_path / 'checkout')

    def build(place: Path, name: str) -> tuple[Path, Path]:
        sdist, wheel = tmp_path / f'{name} sdist', tmp_path / f'{name} wheel'
        command = [sys.executable, '-c', BUILD, str(sdist), str(wheel)]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return next(sdist.iterdir()), next(wheel.iterdir())

    sdist, _ = build(folder, 'first')
    with tarfile.open(sdist) as archive:
        assert not [member.name for member in archive if member.issym() or member.islnk()]
        archive.extractall(tmp_path / 'unpacked', filter='data')
    _, wheel = build(next((tmp_path / 'unpacked').iterdir()), 'second')
    assert contents(wheel) == wanted()


def run(folder: Path, environment: dict[str, str], *command: str | Path) -> str:
    """Runs a command that must succeed; returns what it prints."""
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_command_runs_elsewhere(wheel, tmp_path):
    place = tmp_path / 'installed'
    done = pip('install', '--no-deps', '--no-index', '--target', place, wheel)
    assert done.returncode == 0, done.stderr
    (tmp_path / 'empty').mkdir()

    def sreml(*arguments: str) -> str:
        return run(tmp_path / 'empty', {'PYTHONPATH': str(place)}, place / 'bin' / 'sreml', *arguments)

    assert sreml('--version').startswith(f'sreml_jax {sreml_jax.__version__} (')
    packaged = f'{place}/sreml_jax/configs/default.py lists and explains all'
    assert packaged in ' '.join(sreml('--help').split())
    small = ('--config.ensemble_size=2', '--config.gpu_ids=0')
    assert '2 members of 500 meta classes' in sreml('--config=configs/sop.py', '--mode=describe', *small)


def test_the_container_has_what_the_program_needs(tmp_path):
    text = (ROOT / 'launch' / 'container' / 'Dockerfile').read_text()
    copied = re.findall(r'^COPY (\S+) (\S+)$', text, re.M)
    assert all(target in (name, './') for name, target in copied)
    place = copy([name for name, _ in copied], tmp_path / 'opt')
    command = (sys.executable, '-m', 'sreml_jax.main', '--config=configs/cub.py', '--mode=describe')
    assert 'parameters' in run(place, {'PYTHONPATH': ''}, *command, '--config.ensemble_size=8')
