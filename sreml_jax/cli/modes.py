"""What each --mode does: one function of its name, on a checked config.

Imports are made inside, so that --help and describe need no tensorflow.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ml_collections import ConfigDict

from sreml_jax.cli import file_modes, flags, start
from sreml_jax.cli.file_modes import duplicates, publish, score  # noqa: F401
from sreml_jax.runtime.errors import UserError

if TYPE_CHECKING:
    from sreml_jax.embedder import Embedder
    from sreml_jax.runtime.signals import Signals
    from sreml_jax.search.index import Index


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
    from sreml_jax.cli import faults, validation
    from sreml_jax.runtime import hosts
    from sreml_jax.runtime.signals import Signals

    flags.check_needed(mode)
    file_modes.pull_workdir()
    workdir = flags.workdir()
    hosts.connect(flags.COORDINATOR.value, flags.PROCESSES.value, flags.PROCESS.value)
    config = start.config_of(mode, workdir, config)
    validation.check(config)
    start.refuse_gpu_ids()
    _keep_compiled(config.compilation_cache)
    with faults.explained(config):
        globals()[mode](Job(config, workdir, Signals()))


def train(job: Job) -> None:
    """Trains to the last epoch, then evaluates."""
    start.check_run(job.config, job.workdir)
    from sreml_jax import data, memory, recipe
    from sreml_jax.cli import faults
    from sreml_jax.evaluate import evaluate
    from sreml_jax.train import train

    config = job.config
    if any(config[field] == 0 for field in recipe.FIELDS):
        config = recipe.fitted(config, data.extent(config))
    memory.refuse_training(config)
    dataset = data.load(config)
    start.say_first(config, dataset, training=True)
    with faults.explained(config):  # with the sizes that were chosen
        train(config, job.workdir, dataset, job.signals)
        evaluate(config, job.workdir, dataset)


def eval(job: Job) -> None:
    """Evaluates the newest checkpoint."""
    start.check_run(job.config, job.workdir, trained=True)
    from sreml_jax import data, memory
    from sreml_jax.evaluate import evaluate

    dataset = data.load(job.config)
    start.say_first(job.config, dataset)
    memory.refuse_evaluation(job.config, dataset)
    evaluate(job.config, job.workdir, dataset, thorough=True)


def embed(job: Job) -> None:
    """Embeds photographs into an index."""
    from sreml_jax.search.embed import embed, refuse_inside

    images, out = flags.value(flags.IMAGES), flags.path(flags.OUT)
    refuse_inside(images, out)
    embed(
        _embedder(flags.WORKDIR.value and job.workdir, job.config),
        images,
        out,
        storage=flags.STORAGE.value,
        vectors=flags.VECTORS.value,
        signals=job.signals,
    )


def search(job: Job) -> None:
    """Prints and draws the images of an index that are most like each query."""
    from sreml_jax.search.index import Index
    from sreml_jax.search.query import print_answers

    index = Index(flags.path(flags.INDEX))
    folder = job.workdir if flags.WORKDIR.value else index.folder
    start.check_writable(folder)
    print_answers(
        _embedder(_workdir_of(index), _embedding_like(index, job.config)),
        index,
        flags.queries(),
        folder / 'search.png',
        top=flags.TOP.value,
        approximate=flags.APPROXIMATE.value,
        voters=flags.VOTE.value,
        threshold=flags.THRESHOLD.value,
        kind=flags.FORMAT.value,
    )


def remove(_: Job) -> None:
    """Takes images out of an index."""
    from sreml_jax.search.embed import remove

    remove(flags.path(flags.INDEX), flags.IMAGES.value, flags.GONE.value)


def export(job: Job) -> None:
    """Writes the embedding as a file that JAX alone can run."""
    from sreml_jax.export import export

    out = flags.path(flags.OUT)
    export(_embedder(job.workdir, job.config, runs=False), out)


def report(job: Job) -> None:
    """Writes the page that shows a run."""
    from sreml_jax import data, memory
    from sreml_jax.evaluate import evaluate
    from sreml_jax.evaluation import report_page

    start.check_writable(job.workdir)
    report_page.check_installed()
    dataset = data.load(job.config)
    start.say_first(job.config, dataset)
    memory.refuse_evaluation(job.config, dataset)
    embedder = _embedder(job.workdir, job.config, reduce=False)  # as --mode=eval, whose numbers it repeats
    if not report_page.evaluated(job.workdir, embedder.step, embedder.run.name):
        evaluate(job.config, job.workdir, dataset, thorough=True)
    print(f'{report_page.write(embedder, dataset)} shows the run')


def serve(job: Job) -> None:
    """Serves the search page over an index."""
    try:
        from sreml_jax.search import server
    except ImportError as error:
        raise UserError(f"--mode=serve needs {error.name}: pip install 'sreml_jax[serve]'") from None
    from sreml_jax.search.batched import VOTERS, Finder
    from sreml_jax.search.index import Index

    index = Index(flags.path(flags.INDEX))
    config = _embedding_like(index, job.config)
    if 'eval_batch_size' not in flags.config_overrides():
        # Photographs come one by one, and a padded batch takes as long as a full one.
        config.eval_batch_size = min(config.eval_batch_size, 8 * (config.mesh[0] if config.mesh else 1))
    finder = Finder(
        _embedder(_workdir_of(index), config),
        index,
        flags.TOP.value,
        voters=flags.VOTE.value or VOTERS,
        threshold=flags.THRESHOLD.value,
    )
    server.serve(finder, flags.value(flags.HOST), flags.value(flags.PORT))


def prepare(job: Job) -> None:
    """Prepares the dataset and prints what is in it."""
    from sreml_jax import data, headline

    start.say(headline.of_preparation(job.config, data.source_of(job.config)))
    print(data.summary(job.config))


def describe(job: Job) -> None:
    """Prints layers, parameter counts and the memory that training needs."""
    from sreml_jax import recipe
    from sreml_jax.describe import describe

    print(describe(recipe.fitted(job.config)))


def _workdir_of(index: 'Index') -> str:
    """Returns --workdir, else the run that made the index; '' if pretrained weights made it."""
    return flags.WORKDIR.value or index.about['checkpoint']['workdir']


def _embedder(
    workdir: Path | str | None, config: ConfigDict, *, reduce: bool = True, runs: bool = True
) -> 'Embedder':
    """Returns the embedder of a run, or of pretrained weights if there is no workdir.

    Args:
      workdir, config, reduce: see `Embedder`.
      runs: it embeds; if not, it is only written down.

    Raises:
      UserError: there are several hosts, which cannot share photographs, or too little memory.
    """
    import jax

    from sreml_jax import memory
    from sreml_jax.embedder import Embedder

    if jax.process_count() > 1:
        raise UserError('photographs are embedded by one process, on the devices of one host; start one')
    if reduce:  # else the mode has said more
        start.say_first(config)
    if runs:
        memory.refuse_embedding(config)
    return Embedder(workdir, config, reduce=reduce) if workdir else Embedder.pretrained(config)


def _embedding_like(index: 'Index', config: ConfigDict) -> ConfigDict:
    """Returns the config with the embedding that an index holds, unless the command line sets it."""
    from sreml_jax.search.index import compatibility

    config = config.copy_and_resolve_references()
    made_by = compatibility.config_of(index.folder, index.about)
    for field in ('embedding', 'mirrored', 'embedding_dim'):
        if field not in flags.config_overrides():
            config[field] = made_by[field]
    compatibility.refuse_other_embedding(index.folder, made_by, config)
    return config


def _keep_compiled(folder: str) -> None:
    """Lets JAX keep compiled programs in `folder`, so that the next start need not compile; '' keeps none."""
    import jax

    if folder:
        jax.config.update('jax_compilation_cache_dir', str(Path(folder).expanduser()))
