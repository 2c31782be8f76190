"""What an index.json must hold."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from sreml_jax.retrieval import quantization
from sreml_jax.runtime.text import printable

EMBEDDINGS_OF = ('logits', 'pooled')  # of config.embedding
_MOST = 2**31 - 1  # row numbers are int32


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _is_size(value: Any) -> bool:
    return _is_count(value) and value > 0


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 1  # an embedding has length 1


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_revision(value: Any) -> bool:  # it becomes a part of file names
    return isinstance(value, str) and value.isascii() and value.isalnum()


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_config(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get('embedding', 'logits') in EMBEDDINGS_OF
        and _is_count(value.get('embedding_dim', 0))
    )


def _are_checksums(value: Any) -> bool:
    return isinstance(value, dict) and all(type(v) is int for v in value.values())


Fields = Mapping[str, 'Callable[[Any], bool] | Fields']
# What makes the embeddings; the rest says what is there.
MADE_BY: Fields = {
    'checkpoint': {'workdir': _is_text, 'step': _is_count, 'fingerprint': _is_text, 'config': _is_config},
    'preprocessing': _is_object,
    'dimensions': _is_size,
    'bound': _is_positive,
    'storage': lambda value: value in quantization.CHOICES,
    'scale': _is_positive,
    'vectors': _is_flag,
}
FIELDS: Fields = {
    **MADE_BY,
    'images': _is_count,
    'revision': _is_revision,
    'changed': _is_text,
    'versions': _are_texts,
    'unreadable': _are_texts,
}
OPTIONAL: Fields = {'crc32': _are_checksums}  # indexes of earlier versions have none


def problem(about: Any, fields: Fields = FIELDS, inside: str = '') -> str:
    """Returns in a few words what is wrong with an object read from JSON, or '' if nothing is."""
    if not isinstance(about, dict):
        return f'{inside or "the file"} is not a JSON object'
    optional = {field: check for field, check in OPTIONAL.items() if field in about}
    for field, check in {**fields, **optional}.items():
        name = f'{inside}.{field}' if inside else field
        if field not in about:
            return f'{name} is missing'
        value = about[field]
        if isinstance(check, Mapping):
            if found := problem(value, check, name):
                return found
        elif not check(value):
            return f'{name} cannot be {printable(json.dumps(value), 60)}'
    if not inside and not math.isclose(about['scale'], _scale(about), rel_tol=1e-6):
        return f'scale is {about["scale"]} and must be {_scale(about)}'
    return ''


def _scale(about: Mapping[str, Any]) -> float:
    return quantization.scale_of(about['storage'], about['bound'])
