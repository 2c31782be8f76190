"""The seed's tables as Markdown, with the seed's figures beside ours."""

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from table_cells import Cell, State

ROWS = {'car': 'CARS196', 'cub': 'CUB200', 'sop': 'SOP', 'isc': 'In-shop'}


@functools.cache
def seed() -> dict[str, dict]:
    """Returns what the seed's README reports: parameters, and Recall@K in percent, by backbone and column."""
    return json.loads(Path(__file__).with_name('seed_figures.json').read_text())


def parameter_table(cells: Iterable[Cell], count: Callable[[Cell], int]) -> str:
    """Returns the table of parameters: a row a dataset, a column a backbone."""
    one = {(cell.dataset, cell.backbone): cell for cell in cells}  # the crop does not matter
    datasets, backbones = ([*dict.fromkeys(names)] for names in zip(*one, strict=True))
    rows = [['Backbone', *backbones]]
    for dataset in datasets:
        ours = [count(one[dataset, backbone]) for backbone in backbones]
        theirs = [seed()['parameters'].get(backbone, {}).get(ROWS[dataset]) for backbone in backbones]
        rows.append([ROWS[dataset], *map(_counts, ours, theirs)])
    return '\n\n'.join(['### Parameters', "Ours (the seed's, difference).", _markdown(rows)])


def recall_table(backbone: str, states: dict[Cell, State]) -> str:
    """Returns a backbone's table of Recall@K, a row a K, with what must be said of its cells below."""
    theirs = [seed()['recall_percent'].get(backbone, {}).get(cell.column, {}) for cell in states]
    ours = [(state.results or {}).get('recall', {}) for state in states.values()]
    rows = [['Dataset', *(cell.column for cell in states)]]
    for k in sorted({int(k) for recall in (*theirs, *ours) for k in recall}):
        cells = zip(states.values(), ours, theirs, strict=True)
        rows.append([f'R@{k}', *(_recall(state, our, their, str(k)) for state, our, their in cells)])
    lines = [f'### Recall of {backbone}', "Ours in percent (the seed's, difference).", _markdown(rows)]
    return '\n\n'.join([*lines, *_below(states)])


def _recall(state: State, ours: dict[str, float], theirs: dict[str, float], k: str) -> str:
    seeds = f'{theirs[k]:.2f}%' if k in theirs else '/'
    if state.word != 'done':
        return f'{state.word} ({seeds})'
    if k not in ours:
        return f'/ ({seeds})'
    percent = round(100 * ours[k], 2)
    difference = f', {percent - theirs[k]:+.2f}' if k in theirs else ''
    return f'{percent:.2f}% ({seeds}{difference})'


def _counts(ours: int, theirs: int | None) -> str:
    if theirs is None:
        return f'{ours:,} (/)'
    return f'{ours:,} ({theirs:,}, {f"{ours - theirs:+,}" if ours != theirs else 0})'


def _below(states: dict[Cell, State]) -> list[str]:
    """Returns one list of why cells failed, what is to be known of their data, and what else was set."""
    said: dict[str, list[str]] = {}
    for cell, state in states.items():
        if state.word == 'failed':
            said.setdefault(f'failed: {state.reason}', []).append(cell.column)
        for note in (state.results or {}).get('notes', ()):
            said.setdefault(note, []).append(cell.column)
        if (state.results or {}).get('embedding', '').endswith(', pooled'):
            said.setdefault('evaluated with --config.embedding=pooled', []).append(cell.column)
        if state.extra:
            said.setdefault(f'run with {" ".join(state.extra)}', []).append(cell.column)
    items = (f'- {", ".join(columns)}: {text}' for text, columns in said.items())
    return ['\n'.join(items)] if said else []


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        '| ' + ' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + ' |'
        for row in rows
    ]
    lines.insert(1, '|' + '|'.join('-' * (width + 2) for width in widths) + '|')
    return '\n'.join(lines)
