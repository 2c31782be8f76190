"""--mode=search: prints and draws the images of an index that are most like a photograph."""

import functools
import sys
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
from sreml_jax.search.answers import Answer, written
from sreml_jax.search.approximate import TOP, Approximate
from sreml_jax.search.exact import Find, exact, search
from sreml_jax.search.index import Index, compatibility
from sreml_jax.search.queries import Queries, read
from sreml_jax.search.verdict import Verdict, threshold_of

_ROWS, _COLUMNS = 50, 20  # queries, and matches of each, on the sheet, at most
_PROBLEMS = 20  # named, at most


def answer(
    embedder: Embedder,
    index: Index,
    queries: Queries,
    *,
    top: int = 10,
    voters: int = 0,
    threshold: float | None = None,
    find: Find = exact,
) -> list[Answer]:
    """Finds the images of an index that are most like each photograph, itself left out.

    Args:
      embedder: of the checkpoint that made the index.
      index: to search. An image with the bytes of a query is left out.
      queries: embedded by `embedder`.
      top: images a query.
      voters: neighbors that vote on its class; 0: none.
      threshold: similarity below which a match means nothing; None: it is not known.
      find: see `search`.

    Raises:
      UserError: another checkpoint made the index, or it is damaged.
    """
    compatibility.refuse_other_checkpoint(index.folder, index.about, embedder.about)
    if not queries.paths:
        return []
    found = search(queries.embeddings, index, max(top, voters), find, without=queries.hashes)
    return [
        Answer(path, matches[:top], Verdict.of(matches, voters, threshold))
        for path, matches in zip(queries.paths, found, strict=True)
    ]


def print_answers(
    embedder: Embedder,
    index: Index,
    named: Sequence[str],
    sheet: Path,
    *,
    top: int,
    approximate: bool = False,
    voters: int = 0,
    threshold: float | None = None,
    kind: str = 'table',
) -> list[Answer]:
    """Prints what is most like each photograph, and draws a contact sheet of the first ones.

    Args:
      embedder, index, top, voters: see `answer`.
      threshold: similarity below which a match means nothing; None: as the run's --mode=eval has measured.
      named: files, folders and globs of photographs.
      sheet: path of the PNG to write.
      approximate: search by FAISS; see `Approximate`.
      kind: of answers.FORMATS; beside JSON and CSV, messages go to stderr.

    Raises:
      UserError: a photograph cannot be read (the others are answered first), another checkpoint made the
        index, or it is damaged.
    """
    compatibility.refuse_other_checkpoint(index.folder, index.about, embedder.about)
    messages = sys.stdout if kind == 'table' else sys.stderr
    if threshold is None:
        threshold = threshold_of(embedder)
    queries = read(embedder, named)
    find: Find = functools.partial(exact, devices=embedder.devices)
    if approximate:
        lists = Approximate(index)
        print(
            f'approximate: a query searches {lists.probes} of {lists.lists} lists and finds '
            f'{lists.recall:.1%} of the {TOP} nearest that exact search finds',
            file=messages,
        )
        find = lambda query, _, k: lists.search(query, k)  # noqa: E731
    found = answer(embedder, index, queries, top=top, voters=voters, threshold=threshold, find=find)
    if found or kind != 'table':
        print(written(found, kind, threshold))
    if found:
        with files.atomic_write(sheet) as temporary:
            _draw(found[:_ROWS]).save(temporary, format='PNG')
        shown = f'the first {_ROWS:,} of them' if len(found) > _ROWS else 'them'
        print(f'{printable(sheet, limit=None)} shows {shown}', file=messages)
    if queries.problems:
        raise UserError(_refusal(queries))
    return found


def _refusal(queries: Queries) -> str:
    """Returns the sentence about photographs that cannot be read."""
    problems = queries.problems
    shown = '; '.join(printable(problem, 300) for problem in problems[:_PROBLEMS])
    if len(problems) > _PROBLEMS:
        shown += f'; and {len(problems) - _PROBLEMS:,} more'
    if not queries.paths:
        return shown
    return f'{len(problems):,} of {len(problems) + len(queries.paths):,} queries cannot be read: {shown}'


def _draw(answers: Sequence[Answer]) -> Image.Image:
    """Returns the contact sheet: one query a row, its matches beside it."""
    shown = [answer.matches[:_COLUMNS] for answer in answers]
    return contact_sheet.draw(
        [_thumbnail(answer.query) for answer in answers],
        [[_thumbnail(match.item.path) for match in matches] for matches in shown],
        None,
        [Path(answer.query).name for answer in answers],
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
