"""What each --mode does: one function of its name, on a checked config.

Imports are made inside, so that --help and describe need no tensorflow.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ml_collections import ConfigDict

from sreml_jax import options
from sreml_jax.errors import UserError

if TYPE_CHECKING:
    from sreml_jax.index import Index
    from sreml_jax.signals import Signals


class Job(NamedTuple):
    """What a mode works on.

    Attributes:
      config: checked; of a mode `of_run` without --config, the run's own.
      workdir: of the run; it need not exist.
      signals: handled from here on.
    """

    config: ConfigDict
    workdir: Path
    signals: 'Signals'


def run(mode: str, config: ConfigDict) -> None:
    """Runs one mode as the command line says; raises UserError and RunError."""
    from sreml_jax import config as configs
    from sreml_jax import faults, heap, hosts
    from sreml_jax.signals import Signals

    options.check_needed(mode)
    heap.keep_freed_memory()
    workdir = options.workdir()
    hosts.connect(options.COORDINATOR.value, options.PROCESSES.value, options.PROCESS.value)
    if options.MODES[mode].of_run and not options.given('config'):
        from sreml_jax.checkpoint import newest_config

        config = newest_config(workdir)
        config.update_from_flattened_dict(options.config_overrides())
    configs.check(config)
    _keep_compiled(config.compilation_cache)
    with faults.explained(config):
        globals()[mode](Job(config, workdir, Signals()))


def train(job: Job) -> None:
    """Trains to the last epoch, then evaluates."""
    _check_run(job)
    from sreml_jax import data
    from sreml_jax.evaluate import evaluate
    from sreml_jax.train import train

    dataset = data.load(job.config)
    train(job.config, job.workdir, dataset, job.signals)
    evaluate(job.config, job.workdir, dataset)


def eval(job: Job) -> None:
    """Evaluates the newest checkpoint."""
    _check_run(job, trained=True)
    from sreml_jax import data
    from sreml_jax.evaluate import evaluate

    evaluate(job.config, job.workdir, data.load(job.config), thorough=True)


def embed(job: Job) -> None:
    """Embeds photographs into an index."""
    from sreml_jax.embed import embed
    from sreml_jax.embedder import Embedder

    embed(
        Embedder(job.workdir, job.config),
        options.value(options.IMAGES),
        Path(options.value(options.OUT)).expanduser(),
        storage=options.STORAGE.value,
        vectors=options.VECTORS.value,
        signals=job.signals,
    )


def search(job: Job) -> None:
    """Prints and draws the images of an index that are most like each query."""
    from sreml_jax.embedder import Embedder
    from sreml_jax.index import Index
    from sreml_jax.search import print_matches

    _check_writable(job.workdir)
    index = Index(options.value(options.INDEX))
    print_matches(
        Embedder(job.workdir, _embedding_like(index, job.config)),
        index,
        options.value(options.QUERY),
        job.workdir / 'search.png',
        top=options.TOP.value,
        approximate=options.APPROXIMATE.value,
    )


def remove(_: Job) -> None:
    """Takes images out of an index."""
    from sreml_jax.embed import remove

    remove(Path(options.value(options.INDEX)).expanduser(), options.IMAGES.value, options.GONE.value)


def export(job: Job) -> None:
    """Writes the embedding as a file that JAX alone can run."""
    from sreml_jax.embedder import Embedder
    from sreml_jax.export import export

    export(Embedder(job.workdir, job.config), Path(options.value(options.OUT)).expanduser())


def report(job: Job) -> None:
    """Writes the page that shows a run."""
    from sreml_jax import data
    from sreml_jax.embedder import Embedder
    from sreml_jax.look import report_page

    _check_writable(job.workdir)
    report_page.check_installed()
    dataset = data.load(job.config)
    print(f'{report_page.write(Embedder(job.workdir, job.config), job.workdir, dataset)} shows the run')


def serve(job: Job) -> None:
    """Serves the search page over an index."""
    try:
        from sreml_jax.look import search_page
    except ImportError as error:
        raise UserError(f"--mode=serve needs {error.name}: pip install '.[serve]'") from None
    from sreml_jax.embedder import Embedder
    from sreml_jax.index import Index
    from sreml_jax.look.finder import Finder

    index = Index(options.value(options.INDEX))
    config = _embedding_like(index, job.config)
    if 'eval_batch_size' not in options.config_overrides():
        # Photographs come one by one, and a batch takes its time however few are in it.
        config.eval_batch_size = min(config.eval_batch_size, 8 * (config.mesh[0] if config.mesh else 1))
    finder = Finder(Embedder(job.workdir, config), index, options.TOP.value)
    search_page.serve(finder, options.value(options.HOST), options.value(options.PORT))


def prepare(job: Job) -> None:
    """Prepares the dataset and prints what is in it."""
    from sreml_jax import data

    print(data.summary(job.config))


def describe(job: Job) -> None:
    """Prints layers, parameter counts and the memory that training needs."""
    from sreml_jax.describe import describe

    print(describe(job.config))


def _embedding_like(index: 'Index', config: ConfigDict) -> ConfigDict:
    """Returns the config with what an index is made of, unless the command line sets it."""
    from sreml_jax import config as configs
    from sreml_jax.index import kind

    config = config.copy_and_resolve_references()
    made_by = configs.restore(index.about['checkpoint']['config'])
    for field in ('embedding', 'embedding_dim'):
        if field not in options.config_overrides():
            config[field] = made_by[field]
    kind.refuse_other_embedding(index.folder, made_by, config)
    return config


def _keep_compiled(folder: str) -> None:
    """Lets JAX keep compiled programs in `folder`, so that the next start need not compile; '' keeps none."""
    import jax

    if folder:
        jax.config.update('jax_compilation_cache_dir', str(Path(folder).expanduser()))


def _check_run(job: Job, trained: bool = False) -> None:
    """Raises UserError for what can be seen before a dataset is prepared, which takes time and disk.

    trained: there must be a checkpoint.
    """
    from sreml_jax import config as configs
    from sreml_jax import mesh

    _check_writable(job.workdir)
    mesh.make(job.config)
    if trained or any(path.name.isdigit() for path in (job.workdir / 'checkpoints').glob('*')):
        from sreml_jax import checkpoint

        configs.refuse_other_model(checkpoint.newest_config(job.workdir), job.config, str(job.workdir))


def _check_writable(workdir: Path) -> None:
    """Raises UserError where `workdir` is not, or could not become, a folder to write in."""
    place = workdir.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f'{place} is not a folder that can be written in; take another --workdir')
