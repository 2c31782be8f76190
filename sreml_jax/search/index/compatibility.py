"""What makes the embeddings of an index, and whether more can be added to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sreml_jax.retrieval import quantization
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable
from sreml_jax.search.index import schema
from sreml_jax.search.index.rows import damaged
from sreml_jax.training import saved_config

_NAMES = {'logits': 'logits', 'pooled': 'pooled features'}  # of config.embedding
FIELDS = tuple(schema.MADE_BY)


def config_of(folder: Path, about: Mapping[str, Any]) -> ConfigDict:
    """Returns the config of what made the embeddings of an index; raises UserError if it is damaged."""
    try:
        return saved_config.restore(about['checkpoint']['config'])
    except (AttributeError, TypeError, ValueError) as error:
        raise damaged(folder / 'index.json', printable(error)) from error


def settled(folder: Path, there: dict[str, Any] | None, wanted: dict[str, Any] | None) -> dict[str, Any]:
    """Returns what makes the embeddings of an index from here on.

    Args:
      folder: of the index.
      there: what makes its embeddings; None if it is new.
      wanted: as in `IndexWriter`; None if nothing is embedded.

    Raises:
      UserError: the two contradict each other.
    """
    if there and wanted:
        refuse_other_checkpoint(folder, there, wanted)
        if wanted['storage'] not in (None, there['storage']):
            raise UserError(
                f'{folder} is stored as {there["storage"]}, not as {wanted["storage"]}; '
                'leave out --storage, or take another --out'
            )
        vectors = there['vectors'] if wanted['vectors'] is None else wanted['vectors']
        return {**there, 'vectors': vectors}
    if not wanted:
        assert there, 'an index without images is made by embedding'
        return there
    stored = wanted['storage'] or quantization.CHOICES[0]
    scale = quantization.scale_of(stored, wanted['bound'])
    return {**wanted, 'storage': stored, 'scale': scale, 'vectors': bool(wanted['vectors'])}


def refuse_other_checkpoint(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raises UserError if two `about`s differ in their checkpoint, their PCA or their preprocessing."""
    was, now = there['checkpoint'], here['checkpoint']
    refuse_other_embedding(folder, was['config'], now['config'])
    if there['dimensions'] != here['dimensions']:
        raise UserError(
            f'{folder} holds embeddings of {there["dimensions"]:,} dimensions and this run makes '
            f'{here["dimensions"]:,}; {_advice("embedding_dim")}'
        )
    # Older indexes hold another hash of the same checkpoint.
    if was['fingerprint'] not in (now['fingerprint'], now.get('old_fingerprint')):
        raise UserError(
            f'{folder} was made by another checkpoint: by {_maker(was)}, not by {_maker(now)}; '
            'name that --workdir, or embed into another folder'
        )
    if was.get('pca') not in (None, now.get('pca')):  # indexes of earlier versions do not say
        raise UserError(
            f'{folder} was reduced by another PCA than {_maker(now)} has now; put that PCA back, or embed '
            'all into another folder'
        )
    if there['preprocessing'] != here['preprocessing']:
        fields = ', '.join(
            f'{field} is {value} there and {here["preprocessing"].get(field)} here'
            for field, value in there['preprocessing'].items()
            if here['preprocessing'].get(field) != value
        )
        raise UserError(
            f'{folder} holds images that were prepared differently: {printable(fields)}; set config.* alike'
        )


def refuse_other_embedding(folder: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises UserError if two configs make embeddings of other outputs, or with mirror images or not."""
    made_of, makes = (_NAMES[config.get('embedding', 'logits')] for config in (there, here))
    if made_of != makes:
        raise UserError(
            f'{folder} holds embeddings made of {made_of} and this run makes them of {makes}; '
            f'{_advice("embedding")}'
        )
    was, now = (bool(config.get('mirrored', False)) for config in (there, here))
    if was != now:
        with_mirror = 'with their mirror images', 'alone'
        raise UserError(
            f'{folder} holds embeddings of images {with_mirror[not was]} and this run embeds them '
            f'{with_mirror[not now]}; {_advice("mirrored")}'
        )


def _maker(made_by: dict[str, Any]) -> str:
    """Returns what made embeddings: a step of a run, or pretrained weights."""
    if made_by['workdir']:
        return f'step {made_by["step"]} of {made_by["workdir"]}'
    return (
        f'the weights {made_by["config"]["weights"]} of a {made_by["config"]["model_type"]}, without training'
    )


def _advice(field: str) -> str:
    return (
        f'set --config.{field} as it was then (search and serve read it from the index if you leave it out), '
        'or take another folder'
    )
