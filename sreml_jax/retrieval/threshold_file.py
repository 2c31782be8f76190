"""thresholds.json: the similarity thresholds of a run's checkpoint, by embedding, mirroring, dimensions."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sreml_jax.retrieval.thresholds import Rates, Thresholds
from sreml_jax.runtime import files
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable

FILE = 'thresholds.json'


def save(
    folder: Path,
    fingerprint: str,
    embedding: str,
    dimensions: int,
    thresholds: Thresholds,
    *,
    mirrored: bool = False,
) -> None:
    """Writes FILE into the folder, atomically; what it holds of the checkpoint's other embeddings stays."""
    try:
        kept = _read(folder / FILE)
    except (OSError, ValueError):
        kept = {}
    others = kept.get('embeddings', []) if kept.get('fingerprint') == fingerprint else []
    others = [one for one in others if _kind(one) != (embedding, mirrored, dimensions)]
    own = {'embedding': embedding, 'mirrored': mirrored, 'dimensions': dimensions, **as_json(thresholds)}
    text = json.dumps({'fingerprint': fingerprint, 'embeddings': [*others, own]}, indent=1)
    with files.atomic_write(folder / FILE) as temporary:
        temporary.write_text(text + '\n')


def load(
    folder: Path, fingerprints: Sequence[str], embedding: str, dimensions: int, *, mirrored: bool = False
) -> Thresholds | None:
    """Reads the thresholds of one embedding; None if the folder has none of this checkpoint.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / FILE
    try:
        saved = _read(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f'{path} cannot be read ({printable(error)}); make it again by --mode=eval'
        ) from error
    if saved['fingerprint'] not in fingerprints:
        return None
    for one in saved['embeddings']:
        if _kind(one) == (embedding, mirrored, dimensions):
            return of_json(one)
    return None


def _kind(entry: dict[str, Any]) -> tuple[str, bool, int]:
    """Returns which embedding an entry is of; earlier versions had no mirrored ones."""
    return entry['embedding'], entry.get('mirrored', False), entry['dimensions']


def as_json(thresholds: Thresholds) -> dict[str, Any]:
    """Returns thresholds as JSON can hold them."""
    table = [rates._asdict() for rates in thresholds.table]
    return {**thresholds._asdict(), 'equal': thresholds.equal._asdict(), 'table': table}


def of_json(entry: dict[str, Any]) -> Thresholds:
    """Returns what `as_json` made; further entries are left out."""
    fields = {name: entry[name] for name in Thresholds._fields}
    fields['equal'] = Rates(**entry['equal'])
    fields['table'] = [Rates(**rates) for rates in entry['table']]
    return Thresholds(**fields)


def _read(path: Path) -> dict[str, Any]:
    """Returns the content of a whole file; raises OSError and ValueError."""
    try:
        saved = json.loads(path.read_text())
        for one in saved['embeddings']:
            known = of_json(one)
            if not all(type(x) is float for rates in (known.equal, *known.table) for x in rates[:3]):
                raise ValueError('a rate is no number')
            if type(one['embedding']) is not str or type(one['dimensions']) is not int:
                raise ValueError('an embedding has no name or no dimensions')
        if type(saved['fingerprint']) is not str:
            raise ValueError('it names no checkpoint')
        return saved
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        raise ValueError(f'{type(error).__name__}: {error}') from error
