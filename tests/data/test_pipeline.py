"""From records to batches: the right pixels in the right order, from the disk and from memory."""

import io
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import pictures
from support.paths import SHARED

from sreml_jax import data
from sreml_jax.configs import default
from sreml_jax.data import tf_pictures
from sreml_jax.data.pipeline import TfdsDataset
from sreml_jax.data.sources.builder import RetrievalBuilder
from sreml_jax.data.sources.listing import Example
from sreml_jax.runtime.errors import RunError

PHOTOGRAPHS = SHARED / 'data' / 'cub100.tar'
needs_photographs = pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason=f'no {PHOTOGRAPHS}')


@pytest.fixture
def config(tmp_path):
    config = default.get_config()
    config.update(
        data_name='folder', data_dir=str(tmp_path / 'data'), prepared_dir=str(tmp_path / 'prepared')
    )
    config.update(image_size=32, cache='off')
    return config


def decoded(dataset, split='train', batch_size=5):
    return np.concatenate(list(dataset.images(split, np.arange(len(dataset.labels[split])), batch_size)))


def as_pil(pixels, size):
    resized = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized).astype(int)


def write_photographs(folder, number):
    """Unpacks some photographs into two classes, most stretched to another size; returns their pixels."""
    pixels = []
    with tarfile.open(PHOTOGRAPHS) as tar:
        names = sorted(name for name in tar.getnames() if name.endswith('.jpg'))
        for i, name in enumerate(names[:: len(names) // number][:number]):
            content = tar.extractfile(name).read()
            if i % 3:  # real photographs are of all sizes
                size = [(500, 375), (333, 500), (120, 90), (1024, 200), (256, 300)][i % 5]
                picture = Image.open(io.BytesIO(content)).resize(size, Image.Resampling.BICUBIC)
                content = pictures.encoded(np.asarray(picture), 'JPEG', quality=90)
            path = folder / f'class{i * 2 // number}' / f'{i:03}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            pixels.append(np.asarray(Image.open(io.BytesIO(content)).convert('RGB')))
    return pixels


@needs_photographs
@pytest.mark.parametrize('size', [256, 96])
def test_same_pixels_as_pil_on_real_photographs(tmp_path, config, size):
    pixels = write_photographs(tmp_path / 'data', 40)
    config.image_size = size
    dataset = data.load(config)
    ours = np.concatenate([decoded(dataset, 'train'), decoded(dataset, 'test')]).astype(int)
    for image, original in zip(ours, pixels, strict=True):
        assert np.abs(image - as_pil(original, size)).mean() < 0.5  # gray levels; the bound is 1


def test_every_kind_of_file_gives_its_pixels(tmp_path, config):
    kinds = pictures.write_kinds(tmp_path / 'data' / 'a')
    pictures.write_classes(tmp_path / 'data' / 'b', 1, 1)
    pictures.write_kinds(tmp_path / 'data' / 'b')
    images = decoded(data.load(config))
    assert len(images) == len(kinds)
    for name, image in zip(sorted(kinds), images, strict=True):
        difference = np.abs(image - as_pil(kinds[name], 32))
        assert difference.mean() < (3 if name.endswith('.jpg') else 0.5), name


class Painted(RetrievalBuilder):
    """Noise with a box of one color; boxes over the border, of one pixel and outside are among them."""

    BOXES = (
        (10, 5, 30, 25),
        (-8, -3, 12, 9),
        (50, 40, 90, 70),
        (-5, -5, 100, 100),
        (17, 31, 18, 32),
        (63, 47, 64, 48),
    )

    def find_examples(self, source):
        examples = [
            Example(source / f'{i}{j}.{kind}', f'class{i}', box)
            for i in range(2)
            for j, box in enumerate(self.BOXES)
            for kind in ('png', 'jpg', 'bmp')
        ]
        return {'train': examples[: len(examples) // 2], 'test': examples[len(examples) // 2 :]}


def test_a_painted_box_comes_out_as_its_color_alone(tmp_path, config):
    (tmp_path / 'data').mkdir()
    rng = np.random.default_rng(0)
    colors = {}
    builder = Painted.__new__(Painted)
    for split, examples in builder.find_examples(tmp_path / 'data').items():
        for example in examples:
            pixels = rng.integers(0, 256, (48, 64, 3), np.uint8)
            left, top, right, bottom = example.box
            color = rng.integers(0, 256, 3, np.uint8)
            if example.path.suffix == '.jpg':
                # Lossy: gray comes out whole, and no block of 16 x 16 pixels may reach over the box's border.
                color[:] = color[0]
                pixels[max(top - 16, 0) : bottom + 16, max(left - 16, 0) : right + 16] = color
            pixels[max(top, 0) : bottom, max(left, 0) : right] = color
            Image.fromarray(pixels).save(
                example.path, **({'quality': 95} if 'jpg' in example.path.name else {})
            )
            colors.setdefault(split, []).append(color)
    config.crop_type = 'cropped'
    builder = Painted(tmp_path / 'data', config)
    builder.prepare()
    dataset = TfdsDataset(builder, config)
    for split in ('train', 'test'):
        for image, color, example in zip(
            decoded(dataset, split), colors[split], builder.listing.examples[split], strict=True
        ):
            tolerance = 3 if example.path.suffix == '.jpg' else 0
            assert np.abs(image.astype(int) - color).max() <= tolerance, example


@needs_photographs
def test_a_cropped_jpeg_is_the_crop_of_the_whole(tmp_path, config):
    pixels = write_photographs(tmp_path / 'data', 20)
    paths = sorted((tmp_path / 'data').rglob('*.jpg'))
    boxes = [(len(p[0]) // 5, 7, len(p[0]) * 2 // 3, len(p) - 11) for p in pixels]

    class Boxed(RetrievalBuilder):
        def find_examples(self, source):
            examples = [Example(path, 'a', box) for path, box in zip(paths, boxes, strict=True)]
            return {'train': examples, 'test': examples[:1]}

    config.update(crop_type='cropped', image_size=64)
    builder = Boxed(tmp_path / 'data', config)
    builder.prepare()
    images = decoded(TfdsDataset(builder, config))
    for image, original, (left, top, right, bottom) in zip(images, pixels, boxes, strict=True):
        crop = np.ascontiguousarray(original[top:bottom, left:right])
        assert np.abs(image - as_pil(crop, 64)).mean() < 1


@pytest.mark.parametrize('cache', ['off', 'on', 'auto'])
def test_batches_are_what_was_asked_for(tmp_path, config, cache):
    pictures.write_classes(tmp_path / 'data', 2, 20)
    everything = decoded(data.load(config))
    config.cache = cache
    dataset = data.load(config)
    for indices in ([3], [5, 5, 5, 0, 1, 2, 3, 5], np.random.default_rng(0).permutation(20), []):
        for batch_size in (1, 3, 20):
            batches = list(dataset.images('train', np.asarray(indices, int), batch_size))
            assert [len(b) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
            assert sum(map(len, batches)) == len(indices)
            if len(indices):
                assert (np.concatenate(batches) == everything[indices]).all()


@pytest.mark.parametrize('cache', ['off', 'on'])
def test_runs_side_by_side_do_not_disturb_each_other(tmp_path, config, cache):
    pictures.write_classes(tmp_path / 'data', 2, 20)
    config.cache = cache
    dataset = data.load(config)
    alone = {seed: list(data.load(config).train_batches(4, 2, seed)) for seed in (0, 1)}
    together = {seed: dataset.train_batches(4, 2, seed) for seed in (0, 1)}
    for a, b in zip(alone[0], alone[1], strict=True):
        for seed, batch in ((0, a), (1, b)):
            ours = next(together[seed])
            assert (ours['image'] == batch['image']).all() and (ours['label'] == batch['label']).all()


def test_in_memory_each_image_is_decoded_once(tmp_path, config, monkeypatch):
    pictures.write_classes(tmp_path / 'data', 2, 20)
    config.cache = 'on'
    dataset = data.load(config)
    asked = []
    batches = dataset._records.batches

    def counted(split, parts, size):
        for part in parts:
            asked.extend(part)
            yield from batches(split, [part], size)

    monkeypatch.setattr(dataset._records, 'batches', counted)
    assert sum(1 for _ in dataset.train_batches(5, 4, 0)) == 16
    decoded(dataset)
    assert sorted(asked) == list(range(20))


def test_auto_keeps_only_what_fits(tmp_path, config, monkeypatch):
    pictures.write_classes(tmp_path / 'data', 2, 3)
    config.cache = 'auto'
    needed = 6 * 32 * 32 * 3
    for free, keeps in ((2 * needed, True), (2 * needed - 2, False)):
        monkeypatch.setattr('sreml_jax.runtime.machine.free_memory', lambda free=free: free)
        assert (data.load(config)._kept is not None) == keeps


def test_colors_are_imagenets_where_weights_are_loaded(tmp_path, config):
    pictures.write_classes(tmp_path / 'data', 2, 2)
    measured = data.load(config)
    config.weights = 'imagenet'
    dataset = data.load(config)
    np.testing.assert_allclose(dataset.mean, [0.485, 0.456, 0.406])
    np.testing.assert_allclose(dataset.std, [0.229, 0.224, 0.225])
    assert not np.allclose(measured.mean, dataset.mean, atol=0.02)
    config.update(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))  # a dataset's own
    dataset = data.load(config)
    np.testing.assert_allclose([dataset.mean, dataset.std], [config.mean, config.std], rtol=1e-6)


@pytest.mark.parametrize('skip', [False, True])
def test_what_preparation_accepts_training_decodes(tmp_path, config, skip):
    """PNGs cut short behind their first frame or pixels, which PIL reads and tensorflow refuses."""
    pictures.write_classes(tmp_path / 'data', 2, 1)
    shown = pictures.quarters()
    first_frame = pictures.animated_png(shown)
    first_frame = first_frame[: first_frame.index(b'fdAT') + 10]
    whole = pictures.encoded(shown)
    files = {
        'animated.png': first_frame,
        'no_end.png': whole[:-12],
        'wide.png': pictures.blank_png(65_535, 2),
    }
    for name, content in files.items():
        (tmp_path / 'data' / 'class00' / name).write_bytes(content)
    config.skip_unreadable = skip
    dataset = data.load(config)
    images = decoded(dataset)
    assert len(images) == 1 + len(files) and not dataset.notes
    for image in images[[1, 2]]:
        assert np.abs(image - as_pil(shown, 32)).mean() < 0.5
    assert (images[3] == 0).all()


def test_wide_pictures_are_resized_as_pil_does():
    for i, (width, height) in enumerate(((20_000, 30), (12_000, 400), (30, 20_000))):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)
        image = tf_pictures.resized(tf.constant(pixels), 32).numpy()
        assert np.abs(image - as_pil(pixels, 32)).max() <= 1


def test_a_damaged_record_is_named(tmp_path, config):
    pictures.write_classes(tmp_path / 'data', 2, 8)

    class Spoiling(RetrievalBuilder):
        """Keeps other bytes of one file than it has looked at, as a failing disk would."""

        def find_examples(self, source):
            paths = sorted(source.rglob('*.png'))
            return {'train': [Example(p, 'a') for p in paths], 'test': [Example(paths[0], 'a')]}

        def _decode(self, example):
            record, error = super()._decode(example)
            if example.path.name == '005.png':
                record['image'] = record['image'][:60]
            return record, error

    builder = Spoiling(tmp_path / 'data', config)
    builder.prepare()
    with pytest.raises(RunError, match=r'^class00/005\.png: '):
        decoded(TfdsDataset(builder, config))


@pytest.mark.parametrize('cache', ['off', 'on'])
@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda path: os.truncate(path, path.stat().st_size // 2), 'the records of train cannot be read: '),
        (lambda path: path.unlink(), 'the records of train cannot be read: .*No such file'),
        # Found when the record is read.
        (
            lambda path: path.write_bytes(bytes(200).join(cut_out(path))),
            r'record \d of train cannot be read: ',
        ),
    ],
)
def test_records_that_cannot_be_read_are_reported(spoil, message, cache, tmp_path, config):
    pictures.write_classes(tmp_path / 'data', 2, 8)
    config.cache = cache
    dataset = data.load(config)
    [path] = (tmp_path / 'prepared').rglob('*-train.array_record*')
    spoil(path)
    with pytest.raises(RunError, match=f'^{message}.*; the prepared copy is damaged: remove {path.parent}, '):
        decoded(dataset)


def cut_out(path):
    """What lies before and behind 200 bytes of a file."""
    content = path.read_bytes()
    return content[:200], content[400:]


@pytest.mark.parametrize('cache', ['off', 'on'])
def test_the_process_ends_though_batches_are_on_their_way(tmp_path, config, cache):
    pictures.write_classes(tmp_path / 'data', 2, 200)
    code = f"""
import numpy as np
from sreml_jax.configs import default
from sreml_jax import data
config = default.get_config()
config.update(data_name='folder', data_dir={config.data_dir!r}, prepared_dir={config.prepared_dir!r})
config.cache = {cache!r}
batches = data.load(config).train_batches(2, 20, 0)
next(batches)
raise SystemExit(3)
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 3 and not done.stderr.strip() and not done.stdout.strip(), done.stderr
