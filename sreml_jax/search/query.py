"""--mode=search: prints and draws the images of an index that are most like a photograph."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sreml_jax.data import decode
from sreml_jax.drawing import contact_sheet
from sreml_jax.embedder import Embedder
from sreml_jax.runtime import files
from sreml_jax.runtime.errors import UserError
from sreml_jax.runtime.text import printable
from sreml_jax.search.approximate import TOP, Approximate
from sreml_jax.search.exact import Match, exact, search
from sreml_jax.search.index import Index, compatibility

_SHOWN = 20  # matches of a query on the sheet, at most


def print_matches(
    embedder: Embedder,
    index: Index,
    photographs: Sequence[str],
    sheet: Path,
    *,
    top: int,
    approximate: bool,
) -> list[list[Match]]:
    """Prints rank, similarity and path of the images most like each photograph; draws a contact sheet.

    Args:
      embedder: of the checkpoint that made the index.
      index: to search. A photograph that the index holds finds itself first.
      photographs: paths of the queries.
      sheet: path of the PNG to write.
      top: images a query.
      approximate: search by FAISS; see `Approximate`.

    Returns:
      The matches of each photograph.

    Raises:
      UserError: another checkpoint made the index, it is damaged, or a photograph cannot be read.
    """
    compatibility.refuse_other_checkpoint(index.folder, index.about, embedder.about)
    query = embedder.photographs(photographs)
    if approximate:
        lists = Approximate(index)
        print(
            f'approximate: a query searches {lists.probes} of {lists.lists} lists and finds '
            f'{lists.recall:.1%} of the {TOP} nearest that exact search finds'
        )
        found = search(query, index, top, lambda query, _, k: lists.search(query, k))
    else:
        found = search(query, index, top, functools.partial(exact, devices=embedder.devices))
    for photograph, matches in zip(photographs, found, strict=True):
        print(printable(photograph, limit=None))
        width = len(str(len(matches)))
        for match in matches:
            print(
                f'  {match.rank:{width}}  {match.similarity:7.4f}  {printable(match.item.path, limit=None)}'
            )
    with files.atomic_write(sheet) as temporary:
        _draw(photographs, found).save(temporary, format='PNG')
    print(f'{printable(sheet, limit=None)} shows them')
    return found


def _draw(photographs: Sequence[str], found: Sequence[Sequence[Match]]) -> Image.Image:
    """Returns the contact sheet: one query a row, its matches beside it."""
    shown = [matches[:_SHOWN] for matches in found]
    return contact_sheet.draw(
        [_thumbnail(photograph) for photograph in photographs],
        [[_thumbnail(match.item.path) for match in matches] for matches in shown],
        None,
        [Path(photograph).name for photograph in photographs],
        [[f'{match.similarity:.3f} {Path(match.item.path).name}' for match in matches] for matches in shown],
    )


def _thumbnail(path: str) -> np.ndarray:
    """Returns a small copy of a picture, uint8 [height, width, 3]; a white pixel if its file is gone."""
    try:
        picture = Image.fromarray(decode.picture(path))
    except UserError:
        return np.full((1, 1, 3), 255, np.uint8)
    picture.thumbnail((256, 256))
    return np.asarray(picture)
