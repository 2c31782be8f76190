"""The page of a published run: what it is, what was measured and how, and how to use it."""

import json
from typing import Any

from sreml_jax.embedder import Embedder
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable
from sreml_jax.runtime.versions import installed

_HEAD = """---
library_name: sreml_jax
pipeline_tag: image-feature-extraction
tags:
- metric-learning
- image-retrieval
- jax
- flax
---
"""


def results(embedder: Embedder) -> dict[str, Any]:
    """Returns results.json of the embedder's checkpoint.

    Raises:
      UserError: nobody has evaluated this checkpoint with this embedding.
    """
    path = embedder.workdir / 'results.json'
    try:
        found = json.loads(path.read_text())
        if (found['step'], found['embedding']) == (embedder.step, embedder.run.name) and found['recall']:
            return found
    except (OSError, KeyError, TypeError, ValueError):
        pass
    raise UserError(
        f'{path} holds no results of step {embedder.step:,} as {embedder.run.name}; make them by '
        f'--mode=eval --workdir={embedder.workdir}'
    )


def write(embedder: Embedder, found: dict[str, Any], repository: str) -> str:
    """Returns the page in Markdown.

    Args:
      embedder: of the run.
      found: from `results`.
      repository: USER/NAME.
    """
    config = embedder.run.config
    members = f'{config.ensemble_size} members' if config.ensemble_size > 1 else 'one member'
    kind = 'pooled features' if config.embedding == 'pooled' else 'logits'
    kind += ' of an image and its mirror image' if config.mirrored else ''
    parts = [
        f'{_HEAD}\n# {repository.partition("/")[2]}\n',
        f'Finds images of the same class: a {config.model_type} trunk with {members} on top, trained by '
        f'`sreml_jax` on {_shown(found["dataset"])} for {config.num_epochs} epochs (step {embedder.step:,}). '
        f'Images are resized to {config.image_size}x{config.image_size} pixels. An embedding is '
        f'{embedder.dimensions:,} numbers of unit length, made of {kind}.\n',
        '## Results\n',
        _recall(found),
        _more(found),
        '## How it was measured\n',
        _protocol(found),
        _thresholds(found),
        '## Use\n',
        _use(repository),
        '## Made with\n',
        ', '.join(f'{name} {version}' for name, version in installed().items()) + ' wrote this page.\n',
    ]
    return '\n'.join(part for part in parts if part)


def _recall(found: dict[str, Any]) -> str:
    others = found.get('baselines') or {}
    if not others and found.get('raw_pixels_recall'):  # results.json of earlier versions
        others = {'raw pixels': found['raw_pixels_recall']}
    columns = {found['embedding']: found['recall'], **others}
    lines = [f'|  | {" | ".join(map(_shown, columns))} |', '|---' * (len(columns) + 1) + '|']
    for k in found['recall']:
        cells = (_percent(recall[k]) if k in recall else '/' for recall in columns.values())
        lines.append(f'| R@{k} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def _more(found: dict[str, Any]) -> str:
    names = {'map_at_r': 'MAP@R', 'r_precision': 'R-precision'}
    known = [f'{name} {_percent(found[key])}' for key, name in names.items() if key in found]
    return ', '.join(known) + '.\n' if known else ''


def _protocol(found: dict[str, Any]) -> str:
    if found['protocol'] == 'self-retrieval':
        images = f'each of {found["queries"]:,} images queries the {found["gallery"] - 1:,} others'
    else:
        images = f'{found["queries"]:,} queries against a gallery of {found["gallery"]:,} images'
    notes = ''.join(f' {_shown(note)}.' for note in found.get('notes', ()))
    return (
        f'On {_shown(found["dataset"])}, {_shown(found["crop"])}, {found["classes"]:,} test classes: '
        f'{images}. R@K is the share of queries with an image of their class among the K most similar; equal '
        'similarities count against the query, and so does a query without a match '
        f'({found["unmatched"]:,} of them).{notes}\n'
    )


def _thresholds(found: dict[str, Any]) -> str:
    equal = (found.get('thresholds') or {}).get('equal')
    if not equal:
        return ''
    return (
        f'A similarity below {equal["threshold"]:.3f} means "unknown": at this threshold '
        f'{_percent(equal["false_accepts"])} of the queries find a match although their class is not there, '
        f'and {_percent(equal["false_rejects"])} miss one that is. The rates are of test classes that did '
        'not choose the threshold.\n'
    )


def _use(repository: str) -> str:
    return f"""```
sreml --mode=embed --workdir=hf://{repository} --images=PHOTOS --out=INDEX
sreml --mode=search --workdir=hf://{repository} --index=INDEX --query=photo.jpg
sreml --mode=eval --workdir=hf://{repository} --config.data_dir=DATA
```

```python
from sreml_jax.embedder import Embedder
from sreml_jax.share import pull

embeddings = Embedder(pull('{repository}')).photographs(['photo.jpg'])
```
"""


def _shown(text: object) -> str:
    """Returns text that Markdown shows as it is."""
    return ''.join(f'\\{c}' if c in '\\`*_{}[]<>()#+!|~$' else c for c in printable(text))


def _percent(share: float) -> str:
    return f'{100 * share:.2f}%'
