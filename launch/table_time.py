"""How long a cell should take on a given card, by the figures that `launch/bench.py step --json` kept."""

import functools
import json
import shlex
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from configs import default

BENCH_RESULTS = Path(__file__).with_name('bench_results')
# Images to train on, and to embed for the evaluation; counted in the official lists.
IMAGES = {
    'car': (8_054, 8_131),
    'cub': (5_864, 5_924),
    'sop': (59_551, 60_502),
    'isc': (25_882, 26_830),
}
# What a bench record calls the fields of a config that decide the time of a step.
FIELDS = {
    'model_type': 'model_type',
    'members': 'ensemble_size',
    'width': 'width',
    'batch': 'batch_size',
    'size': 'image_size',
    'remat': 'remat',
    'dtype': 'dtype',
    'conv': 'member_conv',
}


class Figure(NamedTuple):
    """A measured step.

    Attributes:
      seconds: of one training step.
      device: the card's own name.
      source: the file it is from, and its date.
    """

    seconds: float
    device: str
    source: str


def figure(config: ConfigDict, card: str, folder: Path = BENCH_RESULTS) -> Figure | None:
    """Returns the newest figure of the config's model on a card whose name holds `card`, or None."""
    found = [
        Figure(
            record['figures']['step seconds'], record['figures']['device'], f'{name}, {record["date"][:10]}'
        )
        for name, record in _records(folder)
        if card.lower() in record['figures']['device'].lower()
        and all(record['arguments'].get(theirs) == config[ours] for theirs, ours in FIELDS.items())
    ]
    return found[-1] if found else None


def bench(config: ConfigDict, card: str) -> str:
    """Returns the command that measures the config's step, to be given on that card."""
    values = {theirs: config[ours] for theirs, ours in FIELDS.items()}
    flags = [f'--{name}' if value is True else f'--{name}={value}' for name, value in values.items() if value]
    usual = default.get_config()
    unusual = [f'{name}{value}' for name, value in values.items() if value != usual[FIELDS[name]]]
    name = '-'.join([card, config.model_type, *unusual[config.model_type != usual.model_type :]])
    json_file = BENCH_RESULTS.relative_to(BENCH_RESULTS.parents[1]) / f'{name}.json'
    return shlex.join(['python', 'launch/bench.py', 'step', *flags, f'--json={json_file}'])


@functools.cache
def _records(folder: Path) -> list[tuple[str, dict]]:
    """Returns (file, record) of all measured steps, oldest first."""
    records = [(path.name, json.loads(path.read_text())) for path in sorted(folder.glob('*.json'))]
    steps = [(name, record) for name, record in records if 'step seconds' in record.get('figures', {})]
    return sorted(steps, key=lambda step: step[1]['date'])


def seconds(config: ConfigDict, step: Figure) -> float:
    """Returns the time of training and evaluation: a forward pass is a third of a training step's work.

    Reading and decoding images, compiling and saving are left out.
    """
    train, test = IMAGES[config.data_name]
    steps = config.num_epochs * (train // config.batch_size)
    return (steps + test / config.batch_size / 3) * step.seconds
