"""Archives that lie in a dataset's folder are unpacked there: once, safely, all or nothing."""

import contextlib
import fcntl
import gzip
import logging
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from tqdm import tqdm
from tqdm.utils import CallbackIOWrapper

from sreml_jax.runtime.errors import UserError

log = logging.getLogger(__name__)

SUFFIXES = ('.tgz', '.tar.gz', '.zip')

# NotImplementedError: a zip of a compression that Python lacks.
_DAMAGED = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    NotImplementedError,
)


def find(folder: Path, name: str) -> Path | None:
    """Returns the archive `name` with any of `SUFFIXES` in `folder`, or None."""
    return next((a for a in (folder / (name + s) for s in SUFFIXES) if a.is_file()), None)


def unpack(folder: Path, names: Iterable[str]) -> None:
    """Unpacks folder/<name>.tgz (or .tar.gz, .zip) to folder/<name>, where that is not there yet.

    Of an archive that has a top folder of its own name, only that folder is kept; any other is put into a
    new folder of that name as it is.

    Raises:
      UserError: the archive is damaged, locked or unsafe, or the folder cannot be written to.
    """
    for name in names:
        archive = find(folder, name)
        if archive is None or (folder / name).exists():
            continue
        with locked(archive):
            if not (folder / name).exists():  # else another process has done it meanwhile
                _unpack_one(archive, folder / name)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps other processes out that lock the same file or folder; writes nothing."""
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
    except _DAMAGED as error:
        raise UserError(
            f'{archive} is damaged or incomplete ({error}): download it again, or unpack it by hand.'
        ) from error
    except OSError as error:
        raise UserError(
            f'Cannot unpack {archive} ({error.strerror or error}): see that {target.parent} has room and can '
            'be written to, or unpack it by hand.'
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unpack_tar(archive: Path, folder: Path, bar: tqdm) -> None:
    with (
        archive.open('rb') as file,
        # Not tarfile's own decompression: that takes an archive cut off between two members for complete.
        gzip.open(CallbackIOWrapper(bar.update, file)) as unzipped,
    ):
        with tarfile.open(fileobj=unzipped, mode='r|') as tar:
            for member in tar:
                _check(archive, member.name, plain=member.isreg() or member.isdir())
                tar.extract(member, folder, filter='data')
        while unzipped.read(2**20):  # to the end, where gzip's own checksum stands
            pass


def _unpack_zip(archive: Path, folder: Path, bar: tqdm) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            if member.flag_bits & 1:
                raise UserError(f'{archive} is locked by a password: unpack it by hand.')
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the zip was not made on Unix
            _check(archive, member.filename, plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
            file.extract(member, folder)
            bar.update(member.compress_size)


def _check(archive: Path, name: str, plain: bool) -> None:
    """Raises UserError unless the member is a file or folder within the archive's own folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or '..' in path.parts or not plain:
        fault = 'leads out of its folder' if plain else 'is a link or a device'
        raise UserError(
            f'{archive} is not safe to unpack, since its member {name!r} {fault}: get the official archive.'
        )
