"""Unpacks the archives in a dataset's folder: once, safely, all or nothing."""

import contextlib
import fcntl
import gzip
import logging
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from tqdm import tqdm
from tqdm.utils import CallbackIOWrapper

from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable

log = logging.getLogger(__name__)

SUFFIXES = ('.tgz', '.tar.gz', '.zip')

# Bounds of an archive, so that a small one cannot fill the disk. Photographs hardly compress.
MOST_EXPANSION = 50  # bytes of its files for each of its own; below SMALL bytes all is allowed
SMALL = 2**28
MOST_MEMBERS = 1_000_000  # the largest benchmark has 120,053 images
DEEPEST = 20  # folders


def find(folder: Path, name: str) -> Path | None:
    """Returns the archive `name` with any of `SUFFIXES` in `folder`, or None."""
    return next((a for a in (folder / (name + s) for s in SUFFIXES) if a.is_file()), None)


def unpack(folder: Path, names: Iterable[str]) -> None:
    """Unpacks folder/<name>.tgz (or .tar.gz, .zip) to folder/<name>, unless that exists.

    If the archive has a top folder of its own name, only that folder is kept; else all of it goes into a new
    folder of that name.

    Raises:
      UserError: the archive is damaged, locked or unsafe, needs more room than there is, or the folder cannot
        be written to.
    """
    for name in names:
        archive = find(folder, name)
        if archive is None or (folder / name).exists():
            continue
        with locked(archive):
            if not (folder / name).exists():  # else another process has just done it
                _unpack_one(archive, folder / name)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes out that lock the same file or folder; writes no file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network drives have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _unpack_one(archive: Path, target: Path) -> None:
    partial = target.with_name(f'.{target.name}.unpacking')
    log.info('Unpacking %s', archive)
    try:
        if partial.exists():  # left by a process that was killed
            shutil.rmtree(partial)
        partial.mkdir()
        with tqdm(
            desc=archive.name, total=archive.stat().st_size, unit='B', unit_scale=True, disable=None
        ) as bar:
            (_unpack_zip if archive.suffix == '.zip' else _unpack_tar)(archive, partial, bar)
        inner = partial / target.name
        # One rename, after everything else, is what makes it count as done.
        (inner if inner.is_dir() else partial).rename(target)
    except UserError:
        raise
    except (OSError, shutil.Error) as error:
        if isinstance(error, gzip.BadGzipFile):
            raise _damaged(archive, error) from error
        raise UserError(
            f'Cannot unpack {archive} ({error.strerror or error}): see that {target.parent} has room and can '
            'be written to, or unpack it by hand.'
        ) from error
    except Exception as error:  # tarfile and zipfile raise nearly anything over a damaged file
        raise _damaged(archive, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _damaged(archive: Path, error: Exception) -> UserError:
    return UserError(
        f'{archive} is damaged or incomplete ({printable(error)}): download it again, or unpack it by hand.'
    )


def _unpack_tar(archive: Path, folder: Path, bar: tqdm) -> None:
    bounds = _Bounds(archive, folder)
    with (
        archive.open('rb') as file,
        # Not tarfile's own decompression: that takes an archive cut off between two members for complete.
        gzip.open(CallbackIOWrapper(bar.update, file)) as unzipped,
    ):
        with tarfile.open(fileobj=unzipped, mode='r|') as tar:
            for member in tar:
                bounds.check(member.name, member.size, plain=member.isreg() or member.isdir())
                tar.extract(member, folder, filter='data')
        while unzipped.read(2**20):  # to the end, where gzip's own checksum stands
            pass


def _unpack_zip(archive: Path, folder: Path, bar: tqdm) -> None:
    bounds = _Bounds(archive, folder)
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            if member.flag_bits & 1:
                raise UserError(f'{archive} is locked by a password: unpack it by hand.')
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 if the zip was not made on Unix
            bounds.check(member.filename, member.file_size, plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
            file.extract(member, folder)
            bar.update(member.compress_size)


class _Bounds:
    """What an archive may put into a folder; `check` comes before each member is written."""

    def __init__(self, archive: Path, folder: Path):
        self._archive = archive
        self._free = shutil.disk_usage(folder).free
        self._most = max(MOST_EXPANSION * archive.stat().st_size, SMALL)
        self._bytes = self._members = 0

    def check(self, name: str, size: int, plain: bool) -> None:
        """Raises UserError unless the member is a file or folder that the archive's own folder can take."""
        path = PurePosixPath(name)
        if not name or not name.isprintable() or len(path.parts) > DEEPEST:
            self._refuse(name, 'has a name that no photograph has')
        if path.is_absolute() or '..' in path.parts:
            self._refuse(name, 'leads out of its folder')
        if not plain:
            self._refuse(name, 'is a link or a device')
        self._members += 1
        self._bytes += size
        if self._bytes > self._most or self._members > MOST_MEMBERS:
            self._refuse(name, f'makes it {self._bytes:,} bytes in {self._members:,} files')
        if self._bytes > self._free:
            raise UserError(
                f'{self._archive} needs more than the {self._free:,} bytes that are free on its disk: '
                'make room there.'
            )

    def _refuse(self, name: str, fault: str) -> None:
        raise UserError(
            f'{self._archive} is not safe to unpack, since its member {printable(name)!r} {fault}: get the '
            'official archive.'
        )
