"""ImageNet weights from the Hugging Face hub, checked to the last byte."""

import hashlib
import http.client
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from sreml_jax.runtime.errors import UserError

FILE = 'model.safetensors'
REACHED_IN = 5  # seconds


class Published(NamedTuple):
    """The weights of one backbone: a repository of the hub, a commit of it, and FILE's SHA-256 there."""

    repository: str
    revision: str
    sha256: str


# torchvision's first ImageNet-1k weights (IMAGENET1K_V1), as timm publishes them. Commits and checksums come
# from the hub's own pages; only resnet34's checksum is known at second hand.
PUBLISHED = {
    'resnet18': Published(
        'timm/resnet18.tv_in1k',
        'a987fd6b60f845221bfff84b6f0191273ba56ead',
        '694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81',
    ),
    'resnet34': Published(
        'timm/resnet34.tv_in1k',
        'c983eba7f5e69bc3548a626d1b0b0b914e5de3a6',
        '0bb82595a564991a9d424708b33f5d843f5aaed7f6c0886ff10849ff97022235',
    ),
    'resnet50': Published(
        'timm/resnet50.tv_in1k',
        'aa6c2d36d56bc0209040c02b5a7b7d7bf11d57b8',
        '5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888',
    ),
    'resnext50_32x4d': Published(
        'timm/resnext50_32x4d.tv_in1k',
        'ac4eef0c61cc63cb64d8c416bf9b518f757bed1f',
        'c0d85cba49c0e9dedbcf6d4e572e2c5ea5eb68e9d64d0564811fd54d4f72939a',
    ),
}


def fetch(model_type: str) -> Path:
    """Returns the file of a backbone's ImageNet weights, downloaded unless it lies in the hub's cache.

    The hub's own environment variables hold: HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and others.

    Raises:
      UserError: the file cannot be fetched, or is another than was published.
    """
    from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache

    repository, revision, sha256 = PUBLISHED[model_type]
    url = hf_hub_url(repository, FILE, revision=revision)
    by_hand = (
        f'fetch {url} on another machine, put it on this one and pass --config.weights=PATH, or '
        'start from random weights by --config.weights=none'
    )
    cached = try_to_load_from_cache(repository, FILE, revision=revision)
    try:
        if not isinstance(cached, str) and not constants.HF_HUB_OFFLINE:
            refuse_unreachable(url)  # the library would try for half a minute
        path = Path(hf_hub_download(repository, FILE, revision=revision))
    except Exception as error:  # those of its HTTP client too, which differ from version to version
        raise UserError(
            f'the ImageNet weights of {model_type} cannot be fetched ({first_cause(error)}); {by_hand}'
        ) from error
    with path.open('rb') as file:
        found = hashlib.file_digest(file, 'sha256').hexdigest()
    if found != sha256:
        raise UserError(
            f'{path} is not the file of ImageNet weights that was published for {model_type} (its SHA-256 is '
            f'{found}, not {sha256}); remove it, and it is fetched again, or {by_hand}'
        )
    return path


def refuse_unreachable(url: str) -> None:
    """Raises OSError if no server gives any answer for this address within REACHED_IN seconds."""
    failed: list[OSError] = [TimeoutError(f'no answer in {REACHED_IN} seconds')]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method='HEAD'), timeout=REACHED_IN):
                failed.clear()
        except urllib.error.HTTPError as error:
            error.close()
            failed.clear()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, 'reason', error)
            failed[:] = [reason if isinstance(reason, OSError) else OSError(str(reason))]

    # In a thread, since the look-up of a name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACHED_IN)
    if failed:
        raise failed[0]


def first_cause(error: BaseException) -> str:
    """Returns the first line of the error that led to this one of the hub's library."""
    while error.__cause__:
        error = error.__cause__
    return (str(error) or type(error).__name__).splitlines()[0].rstrip('.')
