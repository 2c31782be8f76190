"""What the search page finds."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.asking import TOP, ask, found, refusal
from support.looking import served

from sreml_jax.runtime.errors import UserError
from sreml_jax.search.batched import Finder
from sreml_jax.search.index import Index

search_page = pytest.importorskip('sreml_jax.search.server', exc_type=ImportError)


def check(matches: list[dict], similarity: np.ndarray, paths: list[Path]) -> None:
    """Compares matches with one row of similarities; numpy sorts it here."""
    order = np.argsort(-similarity, kind='stable')[:TOP]
    np.testing.assert_allclose([one['similarity'] for one in matches], similarity[order], atol=1e-5)
    for one in matches:
        path = paths[one['number']]
        assert abs(similarity[one['number']] - one['similarity']) < 1e-5
        assert one['name'] == f'{path.parent.name}/{path.name}' and one['class'] == path.parent.name


def test_a_photograph_finds_what_is_most_like_it(address, paths, similarity):
    for i in (0, 17, 41):
        matches = found(ask(address, '/search', paths[i].read_bytes()))
        assert matches[0]['number'] == i
        check(matches, similarity[i], paths)


def test_search_on_from_an_image_of_the_index(address, paths, similarity):
    for i in (3, 40):
        others = similarity[i].copy()
        others[i] = -2  # itself is the query
        check(found(ask(address, f'/search/{i}')), others, paths)


def test_as_many_as_are_asked_for(address, paths, similarity):
    for top in (1, 3, 42):
        matches = found(ask(address, f'/search?top={top}', paths[4].read_bytes()))
        assert [one['number'] for one in matches] == np.argsort(-similarity[4], kind='stable')[:top].tolist()
        others = np.delete(np.arange(42), 4)
        want = others[np.argsort(-similarity[4, others], kind='stable')][:top].tolist()
        assert [one['number'] for one in found(ask(address, f'/search/4?top={top}'))] == want


def test_only_one_class_is_searched(address, paths, similarity):
    rows = np.array([i for i, path in enumerate(paths) if path.parent.name == 'class9'])
    want = rows[np.argsort(-similarity[4, rows], kind='stable')]
    for top in (2, 100):
        answer = ask(address, f'/search?class=class9&top={top}', paths[4].read_bytes())
        assert [one['number'] for one in found(answer)] == want[:top].tolist()
        assert json.loads(answer[1])['verdict'] is None
        np.testing.assert_allclose(
            [one['similarity'] for one in found(answer)], similarity[4, want[:top]], atol=1e-5
        )
    own = int(rows[0])
    others = rows[1:][np.argsort(-similarity[own, rows[1:]], kind='stable')][:TOP]
    assert [one['number'] for one in found(ask(address, f'/search/{own}?class=class9'))] == others.tolist()


@pytest.mark.parametrize(
    'wish', ['top=0', 'top=101', 'top=-1', 'top=x', 'top=', 'top=%D9%A3', 'class=', 'class=none', 'class=%00']
)
def test_a_wish_that_nobody_can_fulfill(wish, address, paths):
    for path, body in ((f'/search?{wish}', paths[0].read_bytes()), (f'/search/3?{wish}', None)):
        assert re.match(r'top must be a|the index has no class', refusal(ask(address, path, body), 400))


def test_the_verdict_leaves_out_the_photograph_itself(folder, embedder, paths, similarity):
    labels = np.array([path.parent.name for path in paths])
    others = similarity[6].copy()
    others[6] = -2
    order = np.argsort(-others, kind='stable')
    between = float(others[order[:2]].mean())
    for threshold, voters, want in (
        (between, 5, {'unknown': False, 'class': labels[order[0]], 'votes': 1, 'voters': 1}),
        (1.5, 5, {'unknown': True, 'class': None, 'votes': 0, 'voters': 0}),
        (None, 1, {'unknown': None, 'class': labels[order[0]], 'votes': 1, 'voters': 1}),
    ):
        finder = Finder(embedder, Index(folder / 'index'), TOP, voters=voters, threshold=threshold)
        with served(finder) as address:
            for answer in (ask(address, '/search', paths[6].read_bytes()), ask(address, '/search/6')):
                assert json.loads(answer[1])['verdict'] == want
            assert found(ask(address, '/search', paths[6].read_bytes()))[0]['number'] == 6  # is still shown


def test_fifty_at_once_are_all_answered(address, embedder, paths, similarity, monkeypatch):
    batches = []
    images = embedder.images
    monkeypatch.setattr(embedder, 'images', lambda batch: batches.append(len(batch)) or images(batch))

    def one(i: int) -> list[dict]:
        if i % 5 == 4:
            return found(ask(address, f'/search/{i % 42}'))
        return found(ask(address, '/search', paths[i % 42].read_bytes()))

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(one, range(50)))
    for i, matches in enumerate(answers):
        row = similarity[i % 42].copy()
        if i % 5 == 4:
            row[i % 42] = -2
        check(matches, row, paths)
    assert sum(batches) == 40 and max(batches) > 1


def test_an_index_of_another_checkpoint_is_refused(folder, embedder):
    index = Index(folder / 'index')
    index.about['checkpoint']['fingerprint'] = 'other'
    with pytest.raises(UserError, match='was made by another checkpoint'):
        Finder(embedder, index, TOP)
