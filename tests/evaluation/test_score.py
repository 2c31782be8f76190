"""Embeddings of other programs through the protocol: beside brute force and FAISS's own recall."""

import json
import re

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from sreml_jax.evaluation import arrays, score
from sreml_jax.runtime.errors import UserError

KS = (1, 2, 4, 8)


def clustered(random: np.random.Generator, images: int, classes: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of any length near the centers of their classes, and labels."""
    labels = random.integers(0, classes, images)
    centers = np.random.default_rng(9).normal(size=(classes, 16))
    return (centers[labels] + random.normal(0, 1.2, (images, 16))) * random.uniform(1, 9, (images, 1)), labels


def by_hand(query, query_labels, gallery, gallery_labels, same) -> dict:
    """All measures from one sorted list a query."""
    query, gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery))
    similarity = query @ gallery.T
    if same:
        np.fill_diagonal(similarity, -np.inf)
    order = np.argsort(-similarity, 1, kind='stable')[:, : gallery.shape[0] - same]
    right = gallery_labels[order] == query_labels[:, None]
    relevant = right.sum(1)
    means, precisions = [], []
    for row, r in zip(right, relevant, strict=True):
        hits = np.flatnonzero(row[:r])
        means.append(sum((i + 1) / (hit + 1) for i, hit in enumerate(hits)) / max(r, 1))
        precisions.append(len(hits) / max(r, 1))
    return {
        'recall': {str(k): right[:, :k].any(1).mean() for k in KS},
        'map_at_r': np.mean(means),
        'r_precision': np.mean(precisions),
    }


@pytest.mark.parametrize('kind', ['npy', 'parquet'])
def test_self_retrieval_as_brute_force(kind, tmp_path, capsys):
    x, labels = clustered(np.random.default_rng(0), 150)
    labels[0] = 77  # without a match: a miss
    if kind == 'npy':
        np.save(tmp_path / 'x.npy', x.astype(np.float32))
        np.save(tmp_path / 'labels.npy', labels)
        embedded = score.read([tmp_path / 'x.npy'], [tmp_path / 'labels.npy'])
    else:  # as an index with --vectors has it: the class as text, in the same file
        table = pa.table({'class': [f'c{i}' for i in labels], 'embedding': list(x.astype(np.float32))})
        parquet.write_table(table, tmp_path / 'items.parquet')
        embedded = score.read([tmp_path / 'items.parquet'], [])
    found = score.score(embedded, 'theirs', KS)
    want = by_hand(x, labels, x, labels, True)
    assert found['recall'] == pytest.approx(want['recall'])
    assert found['map_at_r'] == pytest.approx(want['map_at_r'])
    assert found['r_precision'] == pytest.approx(want['r_precision'])
    assert (found['queries'], found['unmatched'], found['protocol']) == (150, 1, 'self-retrieval')
    printed = capsys.readouterr().out
    assert '16 dimensions, self-retrieval: each of 150 images against the 149 others; ' in printed
    assert f'R@1       {100 * want["recall"]["1"]:12.2f}%'.split() == next(
        line.split() for line in printed.splitlines() if line.startswith('R@1 ')
    )
    assert f'MAP@R {100 * want["map_at_r"]:.2f}%' in printed and 'search and serve' in printed


def test_query_and_gallery_as_brute_force_in_every_format(tmp_path, capsys):
    random = np.random.default_rng(1)
    (query, query_labels), (gallery, gallery_labels) = clustered(random, 60), clustered(random, 90)
    names = np.array([f'Größe {i}' for i in range(12)])
    np.save(tmp_path / 'q.npy', query)
    np.save(tmp_path / 'g.npy', gallery.astype(np.float16))
    (tmp_path / 'q.txt').write_text('\n'.join(names[query_labels]), encoding='utf-8')
    (tmp_path / 'g.csv').write_text('path,class\n' + ''.join(f'x,{name}\n' for name in names[gallery_labels]))
    embedded = score.read([tmp_path / 'q.npy', tmp_path / 'g.npy'], [tmp_path / 'q.txt', tmp_path / 'g.csv'])
    want = by_hand(query, query_labels, gallery.astype(np.float16).astype(float), gallery_labels, False)
    score.score(embedded, 'theirs', KS, 'json')
    found = json.loads(capsys.readouterr().out)
    assert found['recall'] == pytest.approx(want['recall'])
    assert found['map_at_r'] == pytest.approx(want['map_at_r'])
    assert found['protocol'] == 'query/gallery' and found['gallery'] == 90
    score.score(embedded, 'theirs', KS, 'csv')
    lines = dict(line.split(',') for line in capsys.readouterr().out.splitlines()[1:])
    assert float(lines['recall@4']) == found['recall']['4'] and float(lines['map_at_r']) == found['map_at_r']
    assert float(lines['vote of 5']) == found['votes']['5']


def test_recall_is_that_of_faiss(tmp_path):
    """FAISS's flat index searches the same embeddings; its neighbors give the recall."""
    faiss = pytest.importorskip('faiss', reason='faiss is not installed')
    x, labels = clustered(np.random.default_rng(2), 800, 40)
    np.save(tmp_path / 'x.npy', x)
    np.save(tmp_path / 'labels.npy', labels)
    theirs = x.astype(np.float32)
    faiss.normalize_L2(theirs)
    index = faiss.IndexFlatIP(16)
    index.add(theirs)
    _, neighbors = index.search(theirs, 9)
    others = [[j for j in row if j != i][:8] for i, row in enumerate(neighbors)]
    right = labels[np.array(others)] == labels[:, None]
    found = score.score(score.read([tmp_path / 'x.npy'], [tmp_path / 'labels.npy']), 'x', KS)
    assert found['recall'] == {str(k): right[:, :k].any(1).mean() for k in KS}
    assert 0.2 < found['recall']['1'] < 0.9


def save(folder, name, value):
    np.save(folder / name, value, allow_pickle=value.dtype == object)


@pytest.mark.parametrize(
    ('x', 'labels', 'sentence'),
    [
        (np.ones((3, 2)), np.arange(4), r'x\.npy has 3 embeddings and \S+y\.npy has 4 labels'),
        (np.array([[1.0, 0], [0, 0]]), np.arange(2), 'row 1 of .* is all zeros or not finite .1 such rows'),
        (np.array([[1.0, np.nan]]), np.arange(1), 'row 0 of .*x.npy is all zeros or not finite'),
        (np.ones(3), np.arange(3), r'holds float64 \[3\]; embeddings are numbers, \[images, dimensions\]'),
        (np.empty((0, 3)), np.arange(0), r'holds float64 \[0, 3\]'),
        (np.array([['a']]), np.arange(1), r'holds <U1 \[1, 1\]'),
        (np.ones((2, 2)) * 1j, np.arange(2), 'holds complex numbers'),
        (np.ones((2, 2)), np.ones(2), r'holds float64 \[2\]; labels are whole numbers or names'),
        (np.ones((2, 2)), np.arange(2)[:, None], r'holds int64 \[2, 1\]; labels'),
        (np.array([[{}]]), np.arange(1), r'x\.npy is no whole \.npy file \(Object arrays cannot be loaded'),
    ],
)
def test_arrays_that_do_not_fit(x, labels, sentence, tmp_path):
    save(tmp_path, 'x.npy', x)
    save(tmp_path, 'y.npy', labels)
    with pytest.raises(UserError, match=sentence):
        score.read([tmp_path / 'x.npy'], [tmp_path / 'y.npy'])


def test_files_that_do_not_fit(tmp_path):
    np.save(tmp_path / 'x.npy', np.ones((2, 2)))
    np.save(tmp_path / 'wide.npy', np.ones((2, 3)))
    np.save(tmp_path / 'y.npy', np.arange(2))
    (tmp_path / 'y.txt').write_text('a\nb\n')
    (tmp_path / 'y.csv').write_text('name\na\nb\n')
    (tmp_path / 'cut.npy').write_bytes((tmp_path / 'x.npy').read_bytes()[:-3])
    (tmp_path / 'cut.parquet').write_bytes(b'PAR1')
    parquet.write_table(
        pa.table({'embedding': [[1.0], [1.0, 2.0]], 'label': ['a', None]}), tmp_path / 'p.parquet'
    )
    parquet.write_table(pa.table({'embedding': [1.0], 'other': ['a']}), tmp_path / 'q.parquet')

    def refused(x: str, y: str) -> str:
        with pytest.raises(UserError) as error:
            score.read(*([tmp_path / name for name in names.split()] for names in (x, y)))
        return str(error.value).replace(f'{tmp_path}/', '')

    assert refused('x.npy', '') == (
        '1 files of embeddings and 0 of labels do not fit together; name one of each, or two of each parted '
        'by a comma: the queries and the gallery'
    )
    assert refused('x.npy wide.npy', 'y.npy y.npy') == 'x.npy has 2 dimensions and wide.npy has 3'
    assert (
        refused('x.npy x.npy', 'y.npy y.txt') == 'y.npy and y.txt must both hold numbers or both hold names'
    )
    assert refused(
        'x.jpg', 'y.npy'
    ) == f'--embeddings={tmp_path}/x.jpg must end in one of .npy, .parquet'.replace(f'{tmp_path}/', '')
    assert refused('none.npy', 'y.npy') == 'none.npy cannot be read (No such file or directory)'
    assert re.match(r'cut\.npy is no whole \.npy file \(', refused('cut.npy', 'y.npy'))
    assert re.match(r'cut\.parquet is no whole \.parquet file \(', refused('cut.parquet', 'y.npy'))
    assert refused('x.npy', 'y.csv') == "y.csv has no column 'label' or 'class'; it has name"
    assert refused('p.parquet', 'y.npy').startswith('embeddings of p.parquet differ in their number')
    assert refused('q.parquet', 'y.npy').startswith(
        "the column 'embedding' of q.parquet holds double, not lists"
    )
    assert refused('x.npy', 'p.parquet') == 'row 1 of p.parquet has no label'
    assert (
        refused('x.npy', 'q.parquet') == "q.parquet has no column 'label' or 'class'; it has embedding, other"
    )


@pytest.mark.parametrize(
    ('name', 'text'), [('y.txt', 'cat\ncat\ndog\n'), ('y.csv', 'label,n\ncat,1\ncat,2\ndog,3\n')]
)
def test_a_byte_order_mark_is_no_part_of_a_label(name, text, tmp_path):
    (tmp_path / name).write_text(text, encoding='utf-8-sig')
    assert arrays.labels(tmp_path / name).tolist() == ['cat', 'cat', 'dog']


def test_embeddings_come_as_unit_rows(tmp_path):
    np.save(tmp_path / 'x.npy', np.array([[3, 4], [0, -2]]))
    found = arrays.embeddings(tmp_path / 'x.npy')
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, -1]], atol=1e-7)
