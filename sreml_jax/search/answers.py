"""What a search finds, as a table, as JSON or as CSV."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sreml_jax.runtime.text import printable
from sreml_jax.search.exact import Match
from sreml_jax.search.verdict import UNKNOWN, Verdict, shown

FORMATS = ('table', 'json', 'csv')


class Answer(NamedTuple):
    """The answer to one query: its path, its matches, and what they say about it."""

    query: str
    matches: list[Match]
    verdict: Verdict


def written(answers: Sequence[Answer], kind: str, threshold: float | None) -> str:
    """Returns the answers in one of FORMATS; JSON and CSV hold names as they are, a table as they print."""
    return {'table': _table, 'json': _json, 'csv': _csv}[kind](answers, threshold)


def _table(answers: Sequence[Answer], threshold: float | None) -> str:
    column = max((len(shown(m.item.label)) for a in answers for m in a.matches), default=0)
    lines = []
    for answer in answers:
        verdict = answer.verdict.sentence
        lines.append(printable(answer.query, limit=None) + (f': {verdict}' if verdict else ''))
        width = len(str(len(answer.matches)))
        for match in answer.matches:
            doubt = '' if threshold is None else ' ' if match.similarity >= threshold else '?'
            cells = [
                f'  {match.rank:{width}}',
                f'{match.similarity:7.4f}{doubt}',
                f'{shown(match.item.label):{column}}',
            ]
            lines.append('  '.join([*filter(None, cells), printable(match.item.path, limit=None)]))
    return '\n'.join(lines)


def _json(answers: Sequence[Answer], threshold: float | None) -> str:
    return json.dumps([_entry(answer, threshold) for answer in answers], indent=1)


def _entry(answer: Answer, threshold: float | None) -> dict[str, Any]:
    verdict = answer.verdict
    return {
        'query': answer.query,
        'unknown': verdict.unknown,
        'threshold': threshold,
        'class': verdict.label,
        'votes': verdict.votes,
        'voters': verdict.voters,
        'matches': [
            {
                'rank': match.rank,
                'similarity': round(match.similarity, 6),
                'class': match.item.label,
                'path': match.item.path,
            }
            for match in answer.matches
        ],
    }


def _csv(answers: Sequence[Answer], threshold: float | None) -> str:
    rows = [
        (
            answer.query,
            match.rank,
            f'{match.similarity:.6f}',
            match.item.label,
            match.item.path,
            '' if threshold is None else str(match.similarity >= threshold).lower(),
            UNKNOWN if answer.verdict.unknown else answer.verdict.label,
        )
        for answer in answers
        for match in answer.matches
    ]
    return csv_text(('query', 'rank', 'similarity', 'class', 'path', 'known', 'vote'), rows)


def csv_text(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns CSV with '\\n' at the end of each line but the last; None is an empty field."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(head)
    writer.writerows(rows)
    return file.getvalue().removesuffix('\n')
