"""The peer with a proxy loss: it learns, starts from the same weights as ours, and ends in its time."""

import argparse
import json
import sys

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from support.golden import fill
from support.weights import save_resnet18

from sreml_jax.model import ensemble
from sreml_jax.model.weights import torchvision

torch = pytest.importorskip('torch', reason='torch is not installed')
pytest.importorskip('pytorch_metric_learning', reason='pytorch-metric-learning is not installed')
import birds  # noqa: E402
import peer_proxy  # noqa: E402
import proxy_training  # noqa: E402

SMALL = ('--size=12', '--width=8', '--stem=small', '--dimensions=16', '--batch=8')
COLORS = ((230, 40, 40), (40, 230, 40), (40, 40, 230), (220, 220, 40))
pytestmark = pytest.mark.usefixtures('one_torch_thread')


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """train/<class> and test/<class>: a square of the class's color before a ground of any color."""
    folder, random = tmp_path_factory.mktemp('squares'), np.random.default_rng(0)
    for name in (f'{split}/{number}' for split in ('train', 'test') for number in range(len(COLORS))):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.tile(random.integers(0, 256, 3, np.uint8), (12, 12, 1))
            pixels[3:9, 3:9] = COLORS[int(name[-1])]
            Image.fromarray(pixels).save(folder / name / f'{i}.png')
    return folder


def record_of(images, tmp_path, monkeypatch, *arguments):
    kept = tmp_path / 'figures.json'
    monkeypatch.setattr(sys, 'argv', ['bench', f'--images={images}', *SMALL, *arguments, f'--json={kept}'])
    peer_proxy.main()
    return json.loads(kept.read_text())


@pytest.mark.parametrize('loss', ['proxy_anchor', 'normalized_softmax'])
def test_training_finds_what_makes_a_class(loss, images, tmp_path, monkeypatch):
    flags = (f'--loss={loss}', '--crops=none')
    untrained = record_of(images, tmp_path, monkeypatch, *flags, '--learning_rate=1e-12', '--epochs=1')
    trained = record_of(images, tmp_path, monkeypatch, *flags, '--learning_rate=0.01', '--epochs=30')
    found = trained['figures']
    assert untrained['figures']['Recall']['1'] < 0.8 and found['Recall']['1'] > 0.97  # all but one
    assert found['MAP@R'] > untrained['figures']['MAP@R'] + 0.3
    assert (found['train images'], found['queries'], found['dimensions']) == (48, 48, 16)
    # The squares are symmetric up to one pixel's ground: mirroring changes little, and loses nothing.
    assert found['with mirror images']['Recall']['1'] > 0.97
    assert found['steps'] == 30 * 48 // 8 and trained['versions']['pytorch-metric-learning']


def test_the_time_chooses_the_epochs_and_changes_nothing_else(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(proxy_training.Training, 'seconds_of_step', timed(proxy_training, 0.5))
    short = record_of(images, tmp_path, monkeypatch, '--seconds=7')['figures']
    assert short['epochs'] == 2  # of 6 steps, 3 seconds each
    assert '2 epochs of 6 steps of 0.500 s within 7 s' in capsys.readouterr().out
    same = record_of(images, tmp_path, monkeypatch, '--epochs=2')['figures']
    assert 'a step, timed before' not in same['seconds'] and same['seconds']['training'] > 0
    assert [short[key] for key in ('last loss', 'Recall', 'MAP@R')] == [
        same[key] for key in ('last loss', 'Recall', 'MAP@R')
    ]


def timed(module, seconds):
    """What times a step as before, and then says that one took so many seconds."""
    before = module.Training.seconds_of_step

    def run(self, *given):
        assert before(self, *given) > 0
        return seconds

    return run


@pytest.mark.parametrize(
    ('seconds', 'of_step', 'steps', 'expected'),
    [(100, 0.5, 50, 4), (99.9, 0.5, 50, 3), (10, 0.5, 50, 1), (600, 0.25, 92, 26)],
)
def test_whole_epochs_fit_into_the_time(seconds, of_step, steps, expected):
    assert peer_proxy.epochs_within(seconds, of_step, steps) == expected


@pytest.mark.parametrize(
    ('model_type', 'width', 'stem'),
    [('resnet18', 64, 'imagenet'), ('resnet18', 8, 'small'), ('resnet50', 16, 'imagenet')],
)
def test_the_same_weights_give_the_features_of_ours(model_type, width, stem, tmp_path):
    ours = ensemble.Ensemble(model_type, 1, 2, width, stem, embedding='pooled', conv='grouped')
    if width == 64:
        save_resnet18(tmp_path / 'weights.npz')
        weights = torchvision.read(str(tmp_path / 'weights.npz'), ours)
    else:
        weights = {name: fill(name, shape) for name, shape in torchvision.torch_shapes(ours).items()}
    pixels = np.random.default_rng(0).standard_normal((3, 32, 32, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda: ours.init(jax.random.key(0), pixels))
    on_device = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)
    variables = torchvision.place(weights, shapes, 0, on_device)
    expected = np.asarray(ours.apply(variables, pixels))[:, 0]
    net = proxy_training.Network(model_type, width, stem, 16)
    proxy_training.load(net, weights)
    with torch.no_grad():
        maps = net.eval().features(torch.tensor(pixels).permute(0, 3, 1, 2))
        outputs = net(torch.tensor(pixels).permute(0, 3, 1, 2)).numpy()
    assert np.ptp(expected) > 0
    assert_allclose(maps.mean((2, 3)).numpy(), expected, rtol=1e-4, atol=1e-4 * expected.max())
    # Average and maximum pooling, then the linear layer.
    pooled = maps.numpy().mean((2, 3)) + maps.numpy().max((2, 3))
    fc = {name: value.numpy() for name, value in net.fc.state_dict().items()}
    by_hand = pooled @ fc['weight'].T + fc['bias']
    assert_allclose(outputs, by_hand, rtol=1e-4, atol=1e-4 * np.abs(by_hand).max())


def test_weights_that_do_not_fill_the_network_are_refused():
    net = proxy_training.Network('resnet18', 4, 'small', 8)
    with pytest.raises(ValueError, match=r'layer4\.0\.conv1\.weight'):
        proxy_training.load(net, {})


def test_crops_lie_in_the_image_and_have_the_sizes_of_the_papers():
    # Each pixel's value is its place, and scaling up keeps the outer ones: they say where the box lies.
    n, side = 400, 64
    y, x = np.indices((side, side), np.uint8)
    pixels = torch.from_numpy(np.stack([x, y, x], 2)).expand(n, side, side, 3)
    crops = proxy_training.cropped(pixels, 2 * side, torch.Generator().manual_seed(0)).numpy()
    assert crops.shape == (n, 2 * side, 2 * side, 3)
    left, top = crops[:, 0, 0, 0], crops[:, 0, 0, 1]
    width, height = crops[:, 0, -1, 0] - left + 1, crops[:, -1, 0, 1] - top + 1
    assert_array_equal(width, width.round())
    assert (left + width <= side).all() and (top + height <= side).all()
    area, ratio = width * height / side**2, width / height
    assert 0.14 < area.min() < 0.2 and 0.85 < area.max() <= 1
    assert 0.7 < ratio.min() < 0.78 and 1.28 < ratio.max() < 1.42  # of rounded sides
    for start, free in ((left, side - width), (top, side - height)):
        share = (start / np.maximum(free, 1))[free > 6]
        assert share.min() < 0.1 and share.max() == 1 and abs(share.mean() - 0.5) < 0.06


def test_a_crop_that_shrinks_is_antialiased():
    # A fine chessboard: without antialiasing its crops would be black, white or striped.
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = torch.from_numpy(np.tile(board[None, :, :, None], (20, 1, 1, 3)))
    crops = proxy_training.cropped(pixels, 8, torch.Generator().manual_seed(0)).numpy()
    assert_allclose(crops, 127.5, atol=20)


def test_flips_mirror_half_of_the_images():
    images = torch.arange(200 * 3 * 2 * 4.0).reshape(200, 3, 2, 4)
    found = proxy_training.flipped(images, torch.Generator().manual_seed(0)).numpy()
    mirrored = (found == images.numpy()[..., ::-1]).all((1, 2, 3))
    assert_array_equal(found[~mirrored], images.numpy()[~mirrored])
    assert 70 < mirrored.sum() < 130


def test_recall_and_map_of_a_hand_made_case():
    # On a circle: the neighbors of a are a, b; of the second a: a, b; of b: a (miss), then b.
    angles, labels = np.radians([0, 10, 25, 80]), np.array([5, 5, 9, 9])
    embedding = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    found = peer_proxy.scores(embedding, labels)
    assert found['Recall'] == {'1': 0.75, '2': 0.75, '4': 1, '8': 1} and found['MAP@R'] == 0.75


def test_an_existing_split_is_taken_as_it_is(images):
    dataset = birds.photographs(images, 12, images)
    assert {split: np.bincount(x).tolist()[-4:] for split, x in dataset.labels.items()} == {
        'train': [12] * 4, 'test': [12] * 4,
    }  # fmt: skip
    halves = birds.photographs(images / 'train', 12, images)
    assert [len(halves.labels[split]) for split in ('train', 'test')] == [24, 24]


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--batch=49'], 'there are only 48 training images'),
        (['--weights=absent.npz'], 'there is no file absent.npz'),
        (['--epochs=1', '--seconds=9'], 'not allowed with'),
    ],
)
def test_what_cannot_be_trained_is_refused(flags, message, images, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match='2'):
        record_of(images, tmp_path, monkeypatch, *flags)
    assert message in capsys.readouterr().err and not (tmp_path / 'figures.json').exists()


@pytest.mark.parametrize('loss', ['proxy_anchor', 'normalized_softmax'])
def test_the_losses_have_their_papers_settings(loss):
    """Against the papers' formulas, in numpy."""
    args = argparse.Namespace(model_type='resnet18', width=4, stem='small', dimensions=6, loss=loss, seed=0)
    training = proxy_training.Training(args, 3, {}, np.zeros(3, np.float32), np.ones(3, np.float32))
    random = np.random.default_rng(0)
    x, labels = random.standard_normal((5, 6)), np.array([0, 1, 0, 0, 1])
    proxies = next(training.loss.parameters()).detach().double().numpy()
    proxies = proxies if loss == 'proxy_anchor' else proxies.T
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, proxies)]
    cosines, own = unit[0] @ unit[1].T, np.eye(3, dtype=bool)[labels]
    if loss == 'proxy_anchor':
        of_own = np.log(1 + (np.exp(-32 * (cosines - 0.1)) * own).sum(0)).sum() / 2  # two classes occur
        expected = of_own + np.log(1 + (np.exp(32 * (cosines + 0.1)) * ~own).sum(0)).sum() / 3
    else:
        logits = cosines / 0.05
        expected = (np.log(np.exp(logits).sum(1)) - logits[own]).mean()
    found = training.loss(torch.tensor(x, dtype=torch.float32), torch.tensor(labels))
    assert_allclose(float(found.detach()), expected, rtol=1e-4)
