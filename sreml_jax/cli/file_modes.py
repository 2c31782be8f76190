"""Modes that work on files alone: an index, embeddings, a finished run."""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags as absl_flags

from sreml_jax.cli import flags, start

if TYPE_CHECKING:
    from sreml_jax.cli.modes import Job


def duplicates(_: 'Job') -> None:
    """Lists the images of an index that show nearly the same."""
    from sreml_jax import headline
    from sreml_jax.search import duplicates
    from sreml_jax.search.index import Index

    index = Index(flags.path(flags.INDEX))
    start.say(headline.of_embeddings(index.folder, index.embeddings.shape))
    least = duplicates.SIMILARITY if flags.THRESHOLD.value is None else flags.THRESHOLD.value
    print(duplicates.written(duplicates.find(index, least), flags.FORMAT.value))


def score(job: 'Job') -> None:
    """Measures embeddings of any program."""
    from sreml_jax import headline
    from sreml_jax.evaluation import score
    from sreml_jax.runtime import paths

    files, labels = (
        [paths.local(name, f'--{flag.name}') for name in flag.value or ()]
        for flag in (flags.EMBEDDINGS, flags.LABELS)
    )
    name = ', '.join(Path(file).name for file in files)
    embedded = score.read(files, labels)
    start.say(headline.of_embeddings(name, embedded.gallery.shape))
    score.score(embedded, name, job.config.recalls, flags.FORMAT.value)


def publish(job: 'Job') -> None:
    """Uploads a run to the hub."""
    from sreml_jax import share
    from sreml_jax.embedder import Embedder

    start.say_first(job.config)
    embedder = Embedder(job.workdir, job.config, reduce=False)
    print(f'{share.publish(embedder, flags.value(flags.REPO))} has step {embedder.step:,} of {job.workdir}')


def pull_workdir() -> None:
    """Fetches the run if --workdir names one on the hub, and changes --workdir to the local copy.

    Raises:
      UserError: a name on the hub is not USER/NAME, or the run cannot be fetched.
    """
    if flags.REPO.value is not None:
        from sreml_jax import share

        share.check_name(flags.REPO.value, '--repo')
    if repository := flags.on_hub():
        from sreml_jax import share

        absl_flags.FLAGS['workdir'].value = str(share.pull(repository))
