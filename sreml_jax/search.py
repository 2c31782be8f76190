"""--mode=search: the images of an index that are most like a photograph."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sreml_jax import disk_faults, pictures
from sreml_jax.data import decode
from sreml_jax.embedder import Embedder
from sreml_jax.errors import UserError
from sreml_jax.index import Index, kind
from sreml_jax.retrieval.approximate import TOP, Approximate
from sreml_jax.retrieval.search import Match, search

_SHOWN = 20  # matches of a query on the sheet at most


def print_matches(
    embedder: Embedder,
    index: Index,
    photographs: Sequence[str],
    sheet: Path,
    *,
    top: int,
    approximate: bool,
) -> list[list[Match]]:
    """Prints rank, similarity and path of the images most like each photograph, and writes a contact sheet.

    Args:
      embedder: of the checkpoint that made the index.
      index: to search. A photograph that is in it finds itself first.
      photographs: paths of the queries.
      sheet: path of the PNG.
      top: images a query.
      approximate: search by FAISS, see `Approximate`.

    Returns:
      The matches of each photograph.

    Raises:
      UserError: the index is of another checkpoint, or a photograph is no picture.
    """
    kind.refuse_other_checkpoint(index.folder, index.about, embedder.about)
    query = embedder.photographs(photographs)
    lists = Approximate(index) if approximate else None
    if lists:
        print(
            f'approximate: a query looks into {lists.probes} of {lists.lists} lists and finds '
            f'{lists.recall:.1%} of the {TOP} nearest that exact search finds'
        )
    found = search(query, index, top, approximate=lists, devices=embedder.devices)
    for photograph, matches in zip(photographs, found, strict=True):
        print(photograph)
        width = len(str(len(matches)))
        for match in matches:
            print(f'  {match.rank:{width}}  {match.similarity:7.4f}  {match.item.path}')
    with disk_faults.whole(sheet) as temporary:
        _draw(photographs, found).save(temporary, format='PNG')
    print(f'{sheet} shows them')
    return found


def _draw(photographs: Sequence[str], found: Sequence[Sequence[Match]]) -> Image.Image:
    """Returns the contact sheet: a query a row, its matches beside it."""
    shown = [matches[:_SHOWN] for matches in found]
    return pictures.draw(
        [_thumbnail(photograph) for photograph in photographs],
        [[_thumbnail(match.item.path) for match in matches] for matches in shown],
        None,
        [Path(photograph).name for photograph in photographs],
        [[f'{match.similarity:.3f} {Path(match.item.path).name}' for match in matches] for matches in shown],
    )


def _thumbnail(path: str) -> np.ndarray:
    """Returns the picture in a file made small, uint8 [height, width, 3]; a white pixel where it is gone."""
    try:
        picture = Image.fromarray(decode.picture(path))
    except UserError:
        return np.full((1, 1, 3), 255, np.uint8)
    picture.thumbnail((256, 256))
    return np.asarray(picture)
