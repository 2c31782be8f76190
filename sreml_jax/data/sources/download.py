"""Fetches a dataset's archive from its official address and verifies its checksum."""

import http.client
import logging
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

import requests
import tensorflow_datasets as tfds

from sreml_jax.data.sources.archives import locked
from sreml_jax.runtime.errors import UserError

log = logging.getLogger(__name__)


class Download(NamedTuple):
    """An archive: its address, its name on disk, its size in bytes, and its SHA-256 in hexadecimal."""

    url: str
    file: str
    size: int
    sha256: str


# TFDS has the second at ftp://cs.stanford.edu/cs/cvgl, which is the same server.
DOWNLOADS = {
    'cub': Download(
        'https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1',
        'CUB_200_2011.tgz',
        1_150_585_339,
        '0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081',
    ),
    'sop': Download(
        'http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip',
        'Stanford_Online_Products.zip',
        3_083_860_082,
        'b04fa78210e69fab050ce73939550e1cd0f96890bdd98ec9fee732c3b756ef48',
    ),
}
ATTEMPTS = 3
TIMEOUT = 30  # seconds to wait for an answer


def fetch(name: str, folder: Path) -> None:
    """Downloads the archive of dataset `name` into `folder`, which it makes, unless the archive is there.

    The file gets its name only when size and checksum are right. A broken connection is tried again,
    `ATTEMPTS` times in all.

    Raises:
      UserError: the server cannot be reached, lacks the file or sends other bytes, or the folder cannot be
        written.
    """
    wanted = DOWNLOADS[name]
    target = folder / wanted.file
    if target.exists():
        return
    try:
        _check_offer(wanted)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):  # a second process waits, and then finds the file there
            if not target.exists():
                _fetch_to(target, wanted)
    except (OSError, http.client.HTTPException, tfds.download.DownloadError, _Mismatch) as error:
        raise UserError(
            f'Cannot download {wanted.file} from {wanted.url} ({error}): try again later, or get it by hand '
            f'and put it into {folder}.'
        ) from error


def _check_offer(wanted: Download) -> None:
    """Requests the file without reading it: TFDS takes minutes to notice an unreachable server."""
    try:
        with urllib.request.urlopen(wanted.url, timeout=TIMEOUT) as answer:
            size = answer.headers.get('Content-Length')
    except urllib.error.HTTPError as error:
        error.close()
        raise
    if size and int(size) != wanted.size:
        raise _Mismatch(f'it has {int(size):,} bytes there instead of {wanted.size:,}')


def _fetch_to(target: Path, wanted: Download) -> None:
    partial = target.with_name(f'.{target.name}.download')
    info = tfds.download.checksums.UrlInfo(wanted.size, wanted.sha256, wanted.file)
    try:
        for attempt in range(1, ATTEMPTS + 1):
            shutil.rmtree(partial, ignore_errors=True)  # what a broken download or a killed process left
            manager = tfds.download.DownloadManager(
                download_dir=partial, url_infos={wanted.url: info}, force_checksums_validation=True
            )
            try:
                Path(manager.download(wanted.url)).rename(target)
                return
            except tfds.download.download_manager.NonMatchingChecksumError:
                raise _Mismatch('its checksum is wrong') from None
            except requests.RequestException as error:
                if attempt == ATTEMPTS:
                    raise
                log.warning('The download of %s broke off (%s); starting again.', wanted.file, error)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Mismatch(Exception):
    """The server offers or sends other bytes than expected."""
