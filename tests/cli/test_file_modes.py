"""The modes that need no dataset, through the entry point: what they print, and their mistakes."""

import json

import numpy as np
import pytest
from support import forked
from support.indexes import add, names

PLAIN = '--config.compilation_cache='
MISTAKES = [
    (['--mode=score'], '--mode=score needs --embeddings, .npy of [images, dimensions]'),
    (['--mode=score', '--embeddings=s3://a/x.npy'], '--embeddings=s3://a/x.npy is an address elsewhere'),
    (['--mode=score', '--embeddings=x.npy', '--labels=none.txt'], 'none.txt cannot be read (No such file'),
    (['--mode=duplicates'], '--mode=duplicates needs --index, the folder that --mode=embed made'),
    (['--mode=duplicates', '--index=none'], 'none holds no index'),
    (['--mode=duplicates', '--index=index', '--threshold=2'], '--threshold=2'),
    (['--mode=search', '--index=index', '--query=,'], '--mode=search needs --query'),
    (['--mode=search', '--index=index', '--query=a.png', '--format=xml'], 'flag --format=xml'),
    (['--mode=publish', '--workdir=run'], '--mode=publish needs --repo, the repository'),
    (['--mode=publish', '--workdir=run', '--repo=me/birds'], 'run holds no checkpoint'),
    (['--mode=train', '--workdir=hf://me/birds'], '--workdir=hf://me/birds is an address elsewhere'),
    (['--mode=embed', '--workdir=hf://birds', '--images=a', '--out=b'], '--workdir=birds must be USER/NAME'),
]


@pytest.fixture(scope='module')
def done(tmp_path_factory) -> dict[str, list]:
    """What each command gave: (exit code, output, error)."""
    folder = tmp_path_factory.mktemp('files')
    add(folder / 'index', names(0, 5))
    x = np.eye(4)[[0, 0, 1, 1, 2]]
    np.save(folder / 'x.npy', x)
    (folder / 'y.txt').write_text('a\na\nb\nb\na\n')
    commands = [
        ['--mode=score', '--embeddings=x.npy', '--labels=y.txt', '--format=json', '--config.recalls=1,3'],
        ['--mode=duplicates', '--index=index', '--threshold=-1', '--format=json'],
        ['--mode=duplicates', '--index=index'],
        *(arguments for arguments, _ in MISTAKES),
    ]
    found = forked.run(folder, [{'argv': [*arguments, PLAIN]} for arguments in commands])
    return {' '.join(arguments): result for arguments, result in zip(commands, found, strict=True)}


def test_score(done):
    code, output, error = done[
        '--mode=score --embeddings=x.npy --labels=y.txt --format=json --config.recalls=1,3'
    ]
    assert code == 0, error
    assert error.endswith('; x.npy; 5 embeddings of 4 dimensions\n') and error.startswith('CPU')
    # The last image is equally far from all others: the two wrong ones count as nearer than its match.
    assert json.loads(output)['recall'] == {'1': 0.8, '3': 1.0}


def test_duplicates(done):
    code, output, error = done['--mode=duplicates --index=index --threshold=-1 --format=json']
    assert code == 0, error
    assert '; index; 5 embeddings of ' in error
    assert [len(group) for group in json.loads(output)] == [5]
    assert done['--mode=duplicates --index=index'][:2] == [0, '0 images in 0 groups: 0 could go\n']


@pytest.mark.parametrize(('arguments', 'sentence'), MISTAKES)
def test_a_mistake_is_one_sentence(arguments, sentence, done):
    code, output, error = done[' '.join(arguments)]
    assert (code, output, error.count('\n')) == (2, '', 1), error
    assert sentence in error
