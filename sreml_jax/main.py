"""python -m sreml_jax.main --config=configs/cub.py --workdir=runs/cub --mode=train|eval|...

Trains a squeezed randomized ensemble on the dataset that the config names, and evaluates its retrieval. Any
field of configs/default.py can be set: --config.model_type=resnet34. With no flags it trains
configs/glyphs.py into runs/glyphs. A config file is Python code: run only those you trust.
"""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict, config_flags

from configs import default
from sreml_jax.errors import RunError, UserError, nearest

if TYPE_CHECKING:
    from sreml_jax.signals import Signals

DEFAULT_CONFIG = Path(__file__).resolve().parent.parent / 'configs' / 'glyphs.py'
MODES = {
    'train': 'train to the last epoch, going on from the newest checkpoint, then evaluate',
    'eval': "evaluate the newest checkpoint of --workdir (without --config, with the run's own)",
    'embed': 'embed the photographs --images into the index --out, only those that it does not hold yet',
    'search': 'print the images of --index that are most like each photograph of --query, and draw them',
    'remove': 'take --images, or those that are --gone, out of --index',
    'prepare': 'only prepare the dataset, and print what is in it',
    'describe': 'print layers, parameter counts and the memory that training needs',
}

NEEDED = {
    'embed': ('workdir', 'images', 'out'),
    'search': ('workdir', 'index', 'query'),
    'remove': ('index',),
}

CONFIG = config_flags.DEFINE_config_file('config', None, 'the run, a Python file [configs/glyphs.py]')
WORKDIR = flags.DEFINE_string('workdir', None, 'where the run is kept [runs/<name of the config file>]')
MODE = flags.DEFINE_enum('mode', 'train', list(MODES), '; '.join(f'{m}: {text}' for m, text in MODES.items()))
COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'several hosts: host:port of process 0; under SLURM and Open MPI none is needed'
)
PROCESSES = flags.DEFINE_integer('processes', None, 'several hosts: how many processes there are')
PROCESS = flags.DEFINE_integer('process', None, 'several hosts: number of this process, from 0')
IMAGES = flags.DEFINE_string(
    'images', None, 'embed, remove: photographs; a folder, a glob in quotes or a file'
)
OUT = flags.DEFINE_string('out', None, 'embed: the folder of the index, to be made or to be added to')
STORAGE = flags.DEFINE_enum(
    'storage', None, ['float32', 'float16', 'int8'], 'embed: how embeddings are stored [float32]'
)
VECTORS = flags.DEFINE_bool('vectors', None, 'embed: a column of embeddings in items.parquet too [novectors]')
INDEX = flags.DEFINE_string('index', None, 'search, remove: the folder that --mode=embed made')
GONE = flags.DEFINE_bool('gone', False, 'remove: images whose files are not there any more')
QUERY = flags.DEFINE_list('query', None, 'search: photographs to look for, their paths parted by commas')
TOP = flags.DEFINE_integer('top', 10, 'search: images to find of each query', lower_bound=1)
APPROXIMATE = flags.DEFINE_bool(
    'approximate',
    False,
    'search: by FAISS, for many millions of images; its recall is shown when it is built',
)


def main(_: list[str]) -> None:
    """Runs the mode; a user's mistake ends with one sentence and exit code 2, a run that broke with 1."""
    quiet_libraries()
    try:
        dispatch(MODE.value, _workdir(), CONFIG.value)
    except UserError as error:
        _end(_complain(str(error)))
    except RunError as error:
        _complain(str(error))
        _end(1)


def _end(code: int) -> None:
    from sreml_jax import hosts

    hosts.end(code)


def dispatch(mode: str, workdir: Path, config: ConfigDict) -> None:
    """Runs one mode. Imports are made here, so that --help needs none of them and describe no tensorflow."""
    from sreml_jax import config as configs
    from sreml_jax import hosts

    for name in NEEDED.get(mode, ()):
        if not flags.FLAGS[name].value:
            raise UserError(f'--mode={mode} needs --{name}, {flags.FLAGS[name].help.partition(": ")[2]}')
    if mode == 'remove':
        from sreml_jax.embed import remove

        remove(Path(INDEX.value).expanduser(), IMAGES.value, GONE.value)
        return
    hosts.connect(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    if mode in ('eval', 'embed', 'search') and not _given('config'):
        from sreml_jax.checkpoint import newest_config

        config = newest_config(workdir)
        config.update_from_flattened_dict(config_flags.get_override_values(flags.FLAGS['config']))
    configs.check(config)
    if mode == 'describe':
        from sreml_jax.describe import describe

        print(describe(config))
        return

    from sreml_jax import data, faults
    from sreml_jax.signals import Signals

    signals = Signals()
    if mode == 'prepare':
        print(data.summary(config))
        return

    if mode in ('embed', 'search'):
        keep_compiled(config.compilation_cache)
        with faults.explained(config):
            use(mode, workdir, config, signals)
        return

    from sreml_jax.evaluate import evaluate
    from sreml_jax.train import train

    check_writable(workdir)
    keep_compiled(config.compilation_cache)
    dataset = data.load(config)
    with faults.explained(config):
        if mode == 'train':
            train(config, workdir, dataset, signals)
        evaluate(config, workdir, dataset)


def use(mode: str, workdir: Path, config: ConfigDict, signals: 'Signals') -> None:
    """Runs one of the modes that put a trained model to use."""
    from sreml_jax.embedder import Embedder

    if mode == 'embed':
        from sreml_jax.embed import embed

        out = Path(OUT.value).expanduser()
        choices = {'storage': STORAGE.value, 'vectors': VECTORS.value}
        embed(Embedder(workdir, config), IMAGES.value, out, **choices, signals=signals)
        return

    from sreml_jax.index import Index
    from sreml_jax.search import print_matches

    check_writable(workdir)
    index, sheet = Index(INDEX.value), workdir / 'search.png'
    embedder = Embedder(workdir, config)
    print_matches(embedder, index, QUERY.value, sheet, top=TOP.value, approximate=APPROXIMATE.value)


def quiet_libraries() -> None:
    """Leaves the terminal to this program: orbax and TFDS tell every step of theirs through absl.

    Even their errors: those are raised as well, and a save that fails is this program's to tell.
    """
    absl_logging.set_verbosity(absl_logging.FATAL)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter('%(message)s'))
    log = logging.getLogger('sreml_jax')
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    log.propagate = False


def keep_compiled(folder: str) -> None:
    """Lets JAX keep compiled programs in `folder`, so that the next start need not compile; '' keeps none."""
    import jax

    if folder:
        jax.config.update('jax_compilation_cache_dir', str(Path(folder).expanduser()))


def check_writable(workdir: Path) -> None:
    """Raises UserError where `workdir` is not, or could not become, a folder to write in."""
    place = workdir.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f'{place} is not a folder that can be written in; take another --workdir')


def _workdir() -> Path:
    if WORKDIR.value:
        return Path(WORKDIR.value).expanduser()
    return Path('runs') / Path(flags.FLAGS['config'].config_filename).stem


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; a mistake ends with one sentence and exit code 2."""
    try:
        _check_config_arguments(argv[1:])
        default_config = [] if _given('config') else [f'--config={DEFAULT_CONFIG}']
        rest = flags.FLAGS([argv[0], *default_config, *argv[1:]])
        if len(rest) > 1:
            raise UserError(f'{rest[1]!r} is no option; options begin with --, see --help')
    except (flags.Error, AttributeError, TypeError, ValueError, UserError) as error:
        sys.exit(_complain(' '.join(str(error).split())))
    return rest


def _check_config_arguments(arguments: list[str]) -> None:
    """Raises UserError for a config file or field that is not there: ml_collections shows a traceback."""
    fields = default.get_config()
    for i, argument in enumerate(arguments):
        name, _, value = argument.lstrip('-').partition('=')
        field = name.removeprefix('config.')
        if name == 'config':
            path = Path(value or ''.join(arguments[i + 1 : i + 2]))
            if not path.is_file():
                known = [f'configs/{p.name}' for p in sorted(DEFAULT_CONFIG.parent.glob('[!_]*.py'))]
                raise UserError(
                    f'there is no config file {path}{nearest(str(path), known)}; see {", ".join(known)}'
                )
        elif field != name and field.removeprefix('no') not in fields and field not in fields:
            raise UserError(
                f'config has no field {field!r}{nearest(field, fields)}; configs/default.py lists all'
            )


def _given(flag: str) -> bool:
    """Whether the command line names the flag; absl also counts the default that parse_flags puts in."""
    return any(a.lstrip('-').partition('=')[0] == flag for a in sys.argv[1:])


def _complain(sentence: str) -> int:
    print(f'error: {sentence}', file=sys.stderr)
    return 2


def cli() -> None:
    """The `sreml` command."""
    # ml_collections reads sys.argv and wants the file before the fields; a user may name them in any order.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda a: not a.lstrip('-').startswith('config='))
    app.run(main, flags_parser=parse_flags)


if __name__ == '__main__':
    cli()
