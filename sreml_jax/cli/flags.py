"""The command line: its modes and flags, and what each mode needs. Imports neither jax nor tensorflow.

A new mode is a row of `MODES`, the flags that only it has, and a function of its name in modes.py or
file_modes.py.
"""

import os
import sys
from pathlib import Path
from typing import NamedTuple, TypeVar

from absl import flags
from ml_collections import config_flags

from sreml_jax.cli import help
from sreml_jax.runtime import paths
from sreml_jax.runtime.errors import UserError

T = TypeVar('T')


class Mode(NamedTuple):
    """What the command line has to know of one --mode.

    Attributes:
      does: what it does, a line of --help.
      needs: flags without which it cannot run.
      takes: further flags of its own.
      of_run: without --config it takes that of the newest checkpoint in --workdir.
    """

    does: str
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    of_run: bool = False


MODES = {
    'train': Mode('train to the last epoch, going on from the newest checkpoint, then evaluate'),
    'eval': Mode(
        'evaluate the newest checkpoint of --workdir, by fewer members and numbers too',
        of_run=True,
    ),
    'embed': Mode(
        'embed the photographs --images that the index --out does not hold yet; without --workdir by '
        'pretrained weights, without training',
        needs=('images', 'out'),
        takes=('storage', 'vectors'),
        of_run=True,
    ),
    'search': Mode(
        'print the images of --index that are most like each photograph of --query, and draw them',
        needs=('index', 'query'),
        takes=('top', 'vote', 'threshold', 'format', 'approximate'),
        of_run=True,
    ),
    'remove': Mode(
        'take --images, or those that are --gone, out of --index', needs=('index',), takes=('images', 'gone')
    ),
    'export': Mode(
        'write the embedding as a StableHLO file, and its weights, which JAX runs without this program',
        needs=('workdir', 'out'),
        of_run=True,
    ),
    'report': Mode(
        'write report.html into --workdir: curves, tables, a map, what is found and what is missed',
        needs=('workdir',),
        of_run=True,
    ),
    'serve': Mode(
        'a search page over --index: drop a photograph, see the images most like it, click to search on',
        needs=('index',),
        takes=('host', 'port', 'top', 'vote', 'threshold'),
        of_run=True,
    ),
    'duplicates': Mode(
        'list the images of --index that show nearly the same, in groups',
        needs=('index',),
        takes=('threshold', 'format'),
    ),
    'score': Mode(
        "measure any program's --embeddings as eval measures this program's own",
        needs=('embeddings',),
        takes=('labels', 'format'),
    ),
    'publish': Mode(
        'upload the run of --workdir, with weights, results and a page about it, to the Hugging Face hub',
        needs=('workdir', 'repo'),
        of_run=True,
    ),
    'prepare': Mode('only prepare the dataset, and print what is in it'),
    'describe': Mode('print layers, parameter counts and the memory that training needs'),
}

# A help text begins with the name of the value (absl puts its choices there) and ends with the default.
CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'FILE: the run, a Python file: run only those you trust [configs/glyphs.py]'
)
WORKDIR = flags.DEFINE_string(
    'workdir',
    None,
    'DIR: where the run is kept, or hf://USER/NAME: a published one [runs/<name of the config file>]',
)
MODE = flags.DEFINE_enum('mode', 'train', list(MODES), 'what to do')
COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'HOST:PORT: of process 0; under SLURM and Open MPI none of the three is needed'
)
PROCESSES = flags.DEFINE_integer('processes', None, 'N: how many processes there are')
PROCESS = flags.DEFINE_integer('process', None, 'N: number of this process, from 0')
IMAGES = flags.DEFINE_string('images', None, 'FILES: photographs; a folder, a glob in quotes or a file')
OUT = flags.DEFINE_string(
    'out', None, 'PATH: embed: the folder of the index, to be made or to be added to; export: the file'
)
STORAGE = flags.DEFINE_enum(
    'storage',
    None,
    ['float32', 'float16', 'int8'],
    'how embeddings are stored [float32]',
)
VECTORS = flags.DEFINE_bool('vectors', None, ': a column of embeddings in items.parquet too')
INDEX = flags.DEFINE_string('index', None, 'DIR: the folder that --mode=embed made')
GONE = flags.DEFINE_bool('gone', False, ': images whose files are not there any more')
QUERY = flags.DEFINE_multi_string(
    'query',
    None,
    'FILES: photographs to look for: files, folders or globs, parted by commas, or the flag repeated',
)
TOP = flags.DEFINE_integer('top', 10, 'N: images to find of each query [10]', lower_bound=1)
APPROXIMATE = flags.DEFINE_bool(
    'approximate', False, ': by FAISS, for many millions; its recall against exact search is shown'
)
VOTE = flags.DEFINE_integer(
    'vote',
    0,
    'K: neighbors that vote on the class of a query [search: none; serve: 5]',
    lower_bound=0,
    upper_bound=1000,
)
THRESHOLD = flags.DEFINE_float(
    'threshold',
    None,
    'S: similarity below which a match means nothing [where --mode=eval found both errors equal]; '
    'duplicates: of two images that show the same [0.98]',
    lower_bound=-1.0,
    upper_bound=1.0,
)
FORMAT = flags.DEFINE_enum('format', 'table', ['table', 'json', 'csv'], 'how results are printed [table]')
EMBEDDINGS = flags.DEFINE_list(
    'embeddings',
    None,
    'FILE: .npy of [images, dimensions], or .parquet with a column embedding; QUERIES,GALLERY are two files',
)
LABELS = flags.DEFINE_list(
    'labels',
    None,
    'FILE: of each row: .npy, .txt, or the column label or class of a .csv or .parquet [the .parquet itself]',
)
REPO = flags.DEFINE_string('repo', None, 'USER/NAME: the repository, which is made if it is not there')
HOST = flags.DEFINE_string(
    'host', '127.0.0.1', 'ADDRESS: to listen at; 0.0.0.0 lets the whole network search [127.0.0.1]'
)
PORT = flags.DEFINE_integer(
    'port', 8000, 'N: to listen at; 0 takes one that is free [8000]', lower_bound=0, upper_bound=65535
)

HUB = 'hf://'  # begins a --workdir that lies there
_PATHS = ('workdir', 'out', 'index', 'images', 'query', 'embeddings', 'labels')


def check_needed(mode: str) -> None:
    """Raises UserError for the first flag that the mode needs and was not given, or that is no path."""
    given = {name: flags.FLAGS[name].value for name in (*_PATHS, *MODES[mode].needs)} | {'query': queries()}
    for name in _PATHS:
        if name == 'workdir' and on_hub() and MODES[mode].of_run:
            continue
        found = given[name] or []
        for path in found if isinstance(found, list) else [found]:
            paths.local(path, f'--{name}')
    for name in MODES[mode].needs:
        if not given[name]:
            raise UserError(f'--mode={mode} needs --{name}, {help.explained(name)[1]}')


def value(flag: flags.FlagHolder[T | None]) -> T:
    """Returns the value of a flag that the mode needs; `check_needed` has seen that it is there."""
    assert flag.value is not None
    return flag.value


def path(flag: flags.FlagHolder[str | None]) -> Path:
    """Returns the path that a flag names; raises UserError if no file of this machine could have it."""
    return paths.local(value(flag), f'--{flag.name}')


def queries() -> list[str]:
    """Returns what --query names: each value is split at its commas, unless it is a path that is there."""
    given = [[text] if os.path.lexists(text) else text.split(',') for text in QUERY.value or []]
    return [text for texts in given for text in texts if text]


def config_overrides() -> dict[str, object]:
    """Returns the fields of the config that the command line sets, by name."""
    return config_flags.get_override_values(flags.FLAGS['config'])


def on_hub() -> str:
    """Returns USER/NAME of a --workdir on the hub, or ''."""
    return (WORKDIR.value or '').removeprefix(HUB) if (WORKDIR.value or '').startswith(HUB) else ''


def workdir() -> Path:
    """Returns where the run is kept."""
    if WORKDIR.value:
        return Path(WORKDIR.value).expanduser()
    return Path('runs') / Path(config_flags.get_config_filename(flags.FLAGS['config'])).stem


def given(flag: str) -> bool:
    """Whether the command line names the flag; absl also counts the default that `parse` puts in."""
    named = (a.lstrip('-').partition('=')[0] for a in sys.argv[1:] if a.startswith('-'))
    return flag in named
