"""--mode=publish and --workdir=hf://USER/NAME: a trained run to and from the Hugging Face hub."""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sreml_jax.embedder import Embedder
from sreml_jax.evaluation import model_card
from sreml_jax.model.weights.hub import first_cause, refuse_unreachable
from sreml_jax.retrieval import pca, threshold_file
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable
from sreml_jax.training import checkpoint, published

PULLED = Path('runs/hf')  # USER/NAME lies below it
_RESULTS = ('results.json', 'members_curve.png', 'thresholds.png', threshold_file.FILE, *pca.names())
_FILES = (published.WEIGHTS, published.ABOUT, published.META_CLASSES, *_RESULTS, 'README.md')


def publish(embedder: Embedder, repository: str) -> str:
    """Uploads a run in one commit; the repository is made if it is not there. No image is uploaded.

    Args:
      embedder: of the run, which reduces nothing.
      repository: USER/NAME.

    Returns:
      The address of the repository.

    Raises:
      UserError: the run has no results, the name is invalid, or the hub refuses or cannot be reached.
    """
    check_name(repository, '--repo')
    from huggingface_hub import CommitOperationAdd, HfApi

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(embedder, folder, repository)
        files = sorted(path.name for path in folder.iterdir())
        api = HfApi(library_name='sreml_jax')
        with _explained(repository, 'publish'):
            refuse_unreachable(api.endpoint)
            api.create_repo(repository, exist_ok=True)
            api.create_commit(
                repository,
                [CommitOperationAdd(name, folder / name) for name in files],
                commit_message=f'Step {embedder.step} of {embedder.run.name}',
            )
    return f'{api.endpoint}/{repository}'


def write(embedder: Embedder, folder: Path, repository: str) -> None:
    """Writes those of `_FILES` that exist into `folder`; see `publish`."""
    found = model_card.results(embedder)
    checkpoints, _ = checkpoint.newest(embedder.workdir)
    step = embedder.step
    published.write(
        folder,
        embedder.variables,
        embedder.run.config,
        step=step,
        versions=checkpoints.versions(step),
        meta_table=checkpoints.meta_table(step),
        classes=checkpoints.progress(step).get('classes', []),
    )
    checkpoints.close()
    for name in _RESULTS:
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(embedder.workdir / name, folder / name)
    (folder / 'README.md').write_text(model_card.write(embedder, found, repository), encoding='utf-8')


def pull(repository: str) -> Path:
    """Fetches a published run, unless the hub's cache has its newest state.

    Args:
      repository: USER/NAME.

    Returns:
      A workdir under `PULLED`; its files link into the hub's cache. Other modes write their results there.

    Raises:
      UserError: the repository cannot be fetched, or holds no run of this program.
    """
    check_name(repository, '--workdir')
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with _explained(repository, 'fetch'):
        try:
            snapshot = Path(snapshot_download(repository, allow_patterns=list(_FILES), local_files_only=True))
        except LocalEntryNotFoundError:
            snapshot = None
        if not constants.HF_HUB_OFFLINE:
            try:
                refuse_unreachable(constants.ENDPOINT)
            except OSError:
                if snapshot is None:
                    raise
            else:
                snapshot = Path(snapshot_download(repository, allow_patterns=list(_FILES)))
        elif snapshot is None:
            raise OSError('HF_HUB_OFFLINE is set, and it is not in the cache')
    if not published.is_there(snapshot):
        raise UserError(f'hf://{repository} is not a run of this program: it has no {published.WEIGHTS}')
    folder = PULLED / repository
    folder.mkdir(parents=True, exist_ok=True)
    for file in snapshot.iterdir():
        link = folder / file.name
        if link.is_symlink() or not link.exists():  # what was measured here stays
            link.unlink(missing_ok=True)
            link.symlink_to(file.absolute())
    return folder


def check_name(repository: str, flag: str) -> None:
    """Raises UserError unless this is USER/NAME."""
    if not re.fullmatch(r'[\w-]+(\.[\w-]+)*/[\w-]+(\.[\w-]+)*', repository, re.ASCII):
        raise UserError(f'{flag}={printable(repository, 80)} must be USER/NAME, as the hub writes it')


@contextlib.contextmanager
def _explained(repository: str, what: str) -> Iterator[None]:
    """Raises UserError in place of the many errors of the hub's library and of its HTTP client."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        status = getattr(getattr(error, 'response', None), 'status_code', None)
        if status in (401, 403):
            advice = (
                'log in with "hf auth login", or set HF_TOKEN to a token that may write'
                if (what == 'publish')
                else 'it does not exist, or needs "hf auth login" first'
            )
            raise UserError(
                f'cannot {what} {repository}: the hub refuses (status {status}); {advice}'
            ) from error
        if status == 404:
            raise UserError(f'cannot {what} {repository}: there is no such repository') from error
        raise UserError(
            f'cannot {what} {repository} ({printable(first_cause(error))}); '
            'try again where the hub can be reached'
        ) from error
