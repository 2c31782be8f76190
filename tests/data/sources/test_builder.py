"""Preparation: once per state of the source, complete or not at all, killed or not, and counted."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import pictures
from tensorflow_datasets.core.utils.shard_utils import ShardConfig

from sreml_jax import data
from sreml_jax.configs import default
from sreml_jax.data import decode
from sreml_jax.data.sources.builder import RetrievalBuilder
from sreml_jax.data.sources.listing import Example
from sreml_jax.runtime.errors import UserError

CLASSES, IMAGES = 4, 5  # of `source`; half of the classes train


@pytest.fixture
def source(tmp_path):
    pictures.write_classes(tmp_path / 'data', CLASSES, IMAGES)
    return tmp_path / 'data'


@pytest.fixture
def config(tmp_path):
    config = default.get_config()
    config.update(
        data_name='folder', data_dir=str(tmp_path / 'data'), prepared_dir=str(tmp_path / 'prepared')
    )
    return config


class Listed(RetrievalBuilder):
    """A dataset with lists, boxes, and queries apart from the gallery."""

    def find_examples(self, source: Path) -> dict[str, list[Example]]:
        box = {0: (1, 2, 3, 4), 1: (-5, -5, 100, 100), 2: (2, 2, 2, 2), 3: (50, 50, 60, 60)}
        return {
            split: [
                Example(source / label / f'{j:03}.png', label, box[j]) for label in labels for j in range(4)
            ]
            for split, labels in (
                ('train', ['class02', 'class00']),
                ('query', ['class03']),
                ('gallery', ['class01', 'class03']),
            )
        }


def test_counts_labels_and_sums(source, config):
    metadata = data.prepared(config).info.metadata
    assert metadata['classes'] == ['class00', 'class01', 'class02', 'class03']
    assert metadata['labels'] == {'train': [0] * 5 + [1] * 5, 'test': [2] * 5 + [3] * 5}
    assert metadata['width'] == {'train': 5 * (8 + 9), 'test': 5 * (10 + 11)}
    assert metadata['height'] == {'train': 2 * (9 + 10 + 11 + 12 + 13), 'test': 2 * (9 + 10 + 11 + 12 + 13)}
    files = sorted(source.rglob('*.png'))
    assert metadata['bytes']['test'] == sum(path.stat().st_size for path in files[10:])
    assert metadata['notes'] == metadata['unreadable'] == [] and not metadata['boxes']


def test_colors_are_those_of_the_training_images(source, config):
    images = [np.asarray(Image.open(path)) / 255 for path in sorted(source.rglob('*.png'))[:10]]
    mean = np.mean([x.mean((0, 1)) for x in images], 0)
    std = np.sqrt(np.mean([np.square(x).mean((0, 1)) for x in images], 0) - mean**2)
    dataset = data.load(config)
    np.testing.assert_allclose(dataset.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(dataset.std, std, rtol=1e-6)
    config.mean, config.std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    dataset = data.load(config)
    np.testing.assert_allclose([*dataset.mean, *dataset.std], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], rtol=1e-6)


def test_records_hold_the_files_and_the_clipped_boxes(source, config):
    builder = Listed(source, config)
    builder.prepare()
    assert builder.info.metadata['labels'] == {
        'train': [0] * 4 + [1] * 4,
        'query': [2] * 4,
        'gallery': [3] * 4 + [2] * 4,
    }
    assert builder.info.metadata['boxes']
    # Class 03 is 11 pixels wide; its images are 9, 10, 11 and 12 high.
    boxes = [(1, 2, 3, 4), (0, 0, 11, 10), (2, 2, 3, 3), (10, 11, 11, 12)]
    for j, record in enumerate(builder.as_data_source('query')):
        assert record['file_name'] == f'class03/{j:03}.png'.encode()
        assert tuple(record['box']) == boxes[j] and record['label'] == 2
        assert (record['image'] == np.asarray(Image.open(source / f'class03/{j:03}.png'))).all()


def test_order_is_kept_over_several_files(source, config, monkeypatch):
    monkeypatch.setattr(ShardConfig, 'get_number_shards', lambda *_: 4)
    pictures.write_classes(source, CLASSES, 30)
    builder = data.prepared(config)
    assert len(builder.info.splits['train'].filepaths) == 4
    names = [path.relative_to(source).as_posix() for path in sorted(source.rglob('*.png'))[:60]]
    assert [record['file_name'].decode() for record in builder.as_data_source('train')] == names
    config.update(image_size=8, cache='off')
    dataset = data.load(config)
    chosen = np.random.default_rng(0).permutation(60)
    images = np.concatenate(list(dataset.images('train', chosen, 7)))
    whole = np.concatenate(list(dataset.images('train', np.arange(60), 7)))
    assert (images == whole[chosen]).all() and len(np.unique(whole, axis=0)) == 60


def test_prepared_once(source, config, monkeypatch):
    first = data.prepared(config)
    monkeypatch.setattr(decode, 'open_picture', None)  # decoding anything would now fail
    again = data.prepared(config)
    assert again.data_dir == first.data_dir and again.info.metadata['labels'] == first.info.metadata['labels']


def test_a_changed_source_is_prepared_again(source, config):
    data.prepared(config)
    pictures.write_classes(source, 1, IMAGES + 2)
    assert len(data.prepared(config).info.metadata['labels']['train']) == 2 * IMAGES + 2
    config.train_fraction = 0.75
    assert len(data.prepared(config).info.metadata['labels']['train']) == 3 * IMAGES + 2


def test_unreadable_images_are_all_named_or_left_out(source, config):
    for i in range(6):
        for name in pictures.write_broken(source / 'class01'):
            (source / 'class01' / name).rename(source / 'class01' / f'{i}_{name}')
    with pytest.raises(UserError, match='30 unreadable images') as raised:
        data.load(config)
    message = str(raised.value)
    assert message.count('class01/') == 20 and 'and 10 more' in message and 'skip_unreadable' in message
    assert 'class01/0_empty.jpg: empty file' in message and 'class01/0_text.jpg: not an image' in message
    left = list(Path(config.prepared_dir).rglob('*'))
    assert not [path for path in left if 'array_record' in path.name or 'incomplete' in path.name]
    config.skip_unreadable = True
    dataset = data.load(config)
    assert len(dataset.labels['train']) == 2 * IMAGES
    assert dataset.notes == ('30 unreadable images are left out',)
    config.skip_unreadable = False
    with pytest.raises(UserError, match='30 unreadable images'):
        data.load(config)


def test_a_class_left_without_a_readable_image_leaves_no_gap(source, config):
    for path in (source / 'class00').iterdir():
        path.write_bytes(b'')
    config.skip_unreadable = True
    dataset = data.load(config)
    assert dataset.labels['train'].tolist() == [0] * IMAGES and dataset.num_classes == 1
    assert dataset.class_names['train'] == {0: 'class01'}


def test_a_split_without_a_readable_image_is_refused(source, config):
    for path in source.glob('class0[01]/*'):
        path.write_bytes(b'')
    for config.skip_unreadable in (True, False):
        with pytest.raises(UserError, match='10 unreadable images'):
            data.load(config)


def test_missing_images_are_counted_or_noted(source, config):
    for name in ('class02/001.png', 'class03/000.png'):
        (source / name).unlink()
    with pytest.raises(UserError, match='3 of the listed images are missing') as raised:
        Listed(source, config)
    assert 'class02/001.png; class03/000.png; class03/000.png' in str(raised.value)
    config.allow_missing = True
    builder = Listed(source, config)
    builder.prepare()
    assert [len(x) for x in builder.info.metadata['labels'].values()] == [7, 3, 7]
    assert builder.info.metadata['notes'] == ['3 listed images are missing']


def test_a_prepared_dir_that_cannot_be_written_is_named(source, config, tmp_path):
    (tmp_path / 'file').write_text('')
    config.prepared_dir = str(tmp_path / 'file' / 'prepared')
    with pytest.raises(UserError, match=f'{tmp_path}/file/prepared'):
        data.load(config)


def test_summary(source, config):
    lines = [line.split() for line in data.summary(config).splitlines()]
    assert lines[1] == ['split', 'images', 'classes', 'smallest', 'largest', 'mean', 'size', 'megabytes']
    assert lines[2][:-1] == ['train', '10', '2', '5', '5', '8', 'x', '11']
    assert lines[3][:-1] == ['test', '10', '2', '5', '5', '10', 'x', '11']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'data_name': 'folders'}, r"unknown data_name 'folders' \(did you mean folder\?\)"),
        ({'data_dir': '/no/such/place'}, 'no folder /no/such/place'),
        ({'data_dir': '{tmp}/empty'}, 'empty is empty'),
        ({'crop_type': 'cropped'}, 'folder has no bounding boxes'),
        ({'crop_type': 'round'}, "crop_type is 'round'"),
    ],
)
def test_mistakes(source, config, tmp_path, change, message):
    (tmp_path / 'empty').mkdir()
    config.update({key: value.format(tmp=tmp_path) for key, value in change.items()})
    with pytest.raises(UserError, match=message):
        data.load(config)


@pytest.mark.parametrize('name', ['car', 'cub', 'sop', 'isc'])
def test_a_missing_benchmark_is_explained_alike_whatever_else_is_there(config, tmp_path, name):
    folder = tmp_path / 'data'
    config.update(data_dir=str(folder), data_name=name)
    said = []
    for make in (None, folder.mkdir, (folder / 'other').mkdir):
        if make:
            make()
        with pytest.raises(UserError) as raised:
            data.load(config)
        said.append(str(raised.value))
    assert len(set(said)) == 1, said
    start = f'no copy of {name} lies in {folder}: '
    assert said[0].startswith(start) and 'https://' in said[0]
    assert ('--config.download=True' in said[0]) == (name in ('cub', 'sop'))


def test_the_own_subfolder_goes_first(config, tmp_path):
    (tmp_path / 'cub' / 'images').mkdir(parents=True)
    config.update(data_dir=str(tmp_path), data_name='cub')
    assert data.source_of(config) == tmp_path / 'cub'


# Forks after the imports, which take seconds. Kills some runs, then lets some run together; prints how many
# images these decoded, and how many each split has.
PROCESSES = """
import os, random, signal, sys, time
from pathlib import Path
import tensorflow
from sreml_jax.configs import default
from sreml_jax.data.sources.folder import Folder

source, prepared, kills, together = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
decoded = Path(prepared + '.decoded')

class Slow(Folder):
    def encoded(self, example):
        time.sleep(0.01)
        with decoded.open('ab', 0) as file:
            file.write(b'.')
        return super().encoded(example)

def prepare(folder):
    config = default.get_config()
    config.prepared_dir = folder
    builder = Slow(Path(source), config)
    builder.prepare()
    return builder

def start(folder):
    pid = os.fork()
    if not pid:
        prepare(folder)
        os._exit(0)
    return pid

begun = time.monotonic()
os.waitpid(start(prepared + '.whole'), 0)
takes = time.monotonic() - begun
for kill in range(kills):
    pid = start(prepared)
    time.sleep(random.uniform(0, 1.1 * takes))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
decoded.write_bytes(b'')
ends = [os.waitpid(pid, 0)[1] for pid in [start(prepared) for _ in range(together)]]
assert ends == [0] * together, ends
labels = prepare(prepared).info.metadata['labels']
print(decoded.stat().st_size, len(labels['train']), len(labels['test']))
assert not list(Path(prepared).rglob('incomplete*'))
"""


def test_killed_five_times_the_next_three_runs_complete_it_once(tmp_path):
    pictures.write_classes(tmp_path / 'data', 6, 20)
    arguments = [str(tmp_path / 'data'), str(tmp_path / 'prepared'), '5', '3']
    done = subprocess.run([sys.executable, '-c', PROCESSES, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    decoded, train, test = map(int, done.stdout.split())
    assert (train, test) == (60, 60)
    assert decoded in (0, 120)  # 0: the last kill came too late
