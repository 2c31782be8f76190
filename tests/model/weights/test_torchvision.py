"""Pretrained weights: golden logits from every kind of file, the same stages in every member, every fault."""

import contextlib
import tracemalloc

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import save_file
from support.golden import Case, fill, torch_shape
from support.paths import SHARED
from support.tiny import tiny_config, tiny_dataset

from sreml_jax import resume
from sreml_jax.cli import validation as configs
from sreml_jax.configs import car, cub, default, isc, sop
from sreml_jax.model import init
from sreml_jax.model.ensemble import Ensemble
from sreml_jax.model.weights import torchvision
from sreml_jax.run import Run
from sreml_jax.runtime import sharding as meshes
from sreml_jax.runtime.errors import UserError
from sreml_jax.training import step
from sreml_jax.training.checkpoint import Checkpoints
from sreml_jax.training.optimizer import adam

PARTIAL = SHARED / 'weights' / 'resnet18_partial.npz'
SMALL = Ensemble('resnet18', 4, 5, width=8)


def save_torch(state, path):
    """Writes a state dict as torchvision publishes them."""
    torch = pytest.importorskip('torch')
    torch.save({name: torch.tensor(array) for name, array in state.items()}, path)


SAVE = {'npz': lambda state, path: np.savez(path, **state), 'safetensors': save_file, 'pth': save_torch}


def weights_for(model, seed=0):
    """Random weights of the right names and shapes, in torch's layout."""
    random = np.random.default_rng(seed)
    shapes = torchvision.torch_shapes(model)
    return {name: random.uniform(0.5, 1.5, shape).astype(np.float32) for name, shape in shapes.items()}


def placed(model, weights, config=None, seed=0):
    """All variables on the mesh of the config, by default one device; path -> array."""
    mesh = meshes.make(config or tiny_config())
    shapes = init.shapes(model)
    return flatten_dict(torchvision.place(weights, shapes, seed, meshes.shardings(mesh, shapes)))


@pytest.mark.parametrize(
    # Parameters as torchvision's pages tell them, less the classifier of 1,000 classes and its inputs.
    ('backbone', 'parameters', 'inputs'),
    [
        ('resnet18', 11_689_512, 512),
        ('resnet34', 21_797_672, 512),
        ('resnet50', 25_557_032, 2048),
        ('resnext50_32x4d', 25_028_904, 2048),
    ],
)
def test_names_and_shapes_are_torchvisions(backbone, parameters, inputs):
    shapes = torchvision.torch_shapes(Ensemble(backbone, 3, 5))
    learned = {name: shape for name, shape in shapes.items() if 'running' not in name}
    assert sum(np.prod(shape) for shape in learned.values()) == parameters - 1000 * (inputs + 1)
    assert shapes['conv1.weight'] == (64, 3, 7, 7)
    assert shapes['layer2.0.downsample.0.weight'][1] == inputs // 8
    assert shapes['layer4.0.downsample.1.running_var'] == (inputs,)
    if backbone == 'resnext50_32x4d':
        assert shapes['layer1.0.conv2.weight'] == (128, 4, 3, 3)


@pytest.fixture(scope='module')
def golden():
    """The golden ResNet-18 in float64: (case, its jitted logits, members' state dicts in torch's layout)."""
    with jax.enable_x64(True):
        case = Case('resnet18', conv='matmul')
        apply = jax.jit(case.model.apply)
        states = [{} for _ in range(case.members)]
        for path, x in flatten_dict(case.variables).items():
            name = torchvision.torch_name(path[1:])
            for member, state in enumerate(states):
                if path[1] == 'trunk':
                    state[name] = fill(name, torch_shape(x.shape))
                else:
                    state[name] = fill(f'members.{member}.{name}', torch_shape(x.shape[1:]))
        for state in states:
            state['bn1.num_batches_tracked'] = np.array(7)
            state['fc.weight'] = np.zeros((1000, 512), np.float32)
        yield case, apply, states


@pytest.mark.parametrize('suffix', SAVE)
def test_logits_are_the_golden_ones_from_every_kind_of_file(golden, suffix, tmp_path):
    case, apply, states = golden
    parts = []
    for state in states:  # a file fills all members alike, and the golden ones differ
        SAVE[suffix](state, tmp_path / f'x.{suffix}')
        one = case.model.clone(members=1)
        parts.append(placed(one, torchvision.read(str(tmp_path / f'x.{suffix}'), one)))
    variables = flatten_dict(case.variables)  # for the classifiers
    for path in variables:
        if path[1] == 'trunk':
            variables[path] = np.asarray(parts[0][path], np.float64)
        elif 'fc' not in path:
            variables[path] = np.concatenate([part[path] for part in parts]).astype(np.float64)
    with jax.enable_x64(True):
        logits = apply(unflatten_dict(variables), case.images)
    assert_allclose(logits, case.expected['eval_logits'], rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(not PARTIAL.exists(), reason=f'no {PARTIAL}')
def test_a_real_resnet18_of_half_precision():
    model = Ensemble('resnet18', 2, 5)
    weights = torchvision.read(str(PARTIAL), model)
    variables = placed(model, weights)
    with np.load(PARTIAL) as stored:
        kernel, variance = stored['layer3.0.conv2.weight'], stored['layer2.0.downsample.1.running_var']
    ours = variables['params', 'members', 'layer3', '0', 'conv2', 'kernel']
    assert ours.dtype == np.float32
    assert_array_equal(ours[1, 2, 0, 5, 7], kernel[7, 5, 2, 0])
    assert_array_equal(
        variables['batch_stats', 'members', 'layer2', '0', 'downsample_bn', 'var'][0], variance
    )


def test_every_member_has_the_same_stages_and_a_classifier_of_its_own():
    weights = weights_for(SMALL)
    config = tiny_config(ensemble_size=4, gpu_ids=(0, 1, 2, 3), mesh=(2, 2))
    variables = placed(SMALL, weights, config)
    fresh = placed(SMALL, {}, config)
    assert variables.keys() == fresh.keys()
    for path, x in variables.items():
        assert (x.shape, x.dtype, x.sharding) == (fresh[path].shape, np.float32, fresh[path].sharding)
        if 'fc' in path:
            assert_array_equal(x, fresh[path])
        elif path[1] == 'trunk':
            assert_array_equal(x, torchvision.from_torch(weights[torchvision.torch_name(path[1:])]))
        else:
            expected = torchvision.from_torch(weights[torchvision.torch_name(path[1:])])
            assert_array_equal(x, np.stack([expected] * 4))
    kernels = np.asarray(variables['params', 'members', 'fc', 'kernel'])
    assert len({k.tobytes() for k in kernels}) == 4


def test_nothing_given_is_all_drawn():
    config = tiny_config()
    mesh = meshes.make(config)
    shapes = init.shapes(SMALL)
    drawn = init.draw(shapes, 3, meshes.shardings(mesh, shapes))
    jax.tree.map(assert_array_equal, step.initial_state(SMALL, adam(1e-3), mesh, 3).variables, drawn)


def test_no_copy_for_each_member_on_the_host():
    members = 32
    model = Ensemble('resnet18', members, 2, width=16)
    weights = weights_for(model)
    placed(model, weights)
    one = sum(array.nbytes for array in weights.values())
    tracemalloc.start()
    try:
        variables = placed(model, weights)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    stages = sum(x.nbytes for path, x in variables.items() if path[1] == 'members' and 'fc' not in path)
    assert stages > 30 * one * 0.9  # nearly all of the weights are the stages'
    assert peak < 2 * one


def spoilt(change):
    """Weights for SMALL, after a change."""
    weights = weights_for(SMALL)
    change(weights)
    return weights


def lose_many(weights):
    for name in [name for name in weights if name.startswith('layer4')]:
        del weights[name]


@pytest.mark.parametrize(
    ('change', 'complaint'),
    [
        (lambda w: w.pop('layer3.1.bn2.running_var'), 'missing are layer3.1.bn2.running_var;'),
        (lambda w: w.update({'layer5.weight': np.zeros(3)}), 'unexpected are layer5.weight;'),
        (
            lambda w: w.update({'conv1.weight': np.zeros((8, 3, 3, 3))}),
            'conv1.weight is float64 (8, 3, 3, 3) instead of floating (8, 3, 7, 7);',
        ),
        (
            lambda w: w.update({'bn1.bias': np.zeros(8, np.int8)}),
            'bn1.bias is int8 (8,) instead of floating (8,);',
        ),
        (
            lambda w: w.update({f'module.{name}': w.pop(name) for name in ('bn1.bias', 'bn1.weight')}),
            'missing are bn1.bias, bn1.weight; unexpected are module.bn1.bias, module.bn1.weight;',
        ),
        (lose_many, ' and 15 more;'),  # 5 convolutions of 5 arrays, of which 10 are named
    ],
)
def test_weights_of_another_model_are_refused_by_name(change, complaint, tmp_path):
    path = tmp_path / 'x.npz'
    np.savez(path, **spoilt(change))
    with pytest.raises(UserError) as refused:
        torchvision.read(str(path), SMALL)
    message = str(refused.value)
    assert message.startswith(f'{path} does not hold the weights of a resnet18 of width 8: ')
    assert complaint in message


@pytest.mark.parametrize('suffix', ['npz', 'safetensors'])
@pytest.mark.parametrize(
    ('name', 'value', 'fault'),
    [
        ('conv1.weight', np.nan, 'not finite'),
        ('layer1.0.bn1.bias', -np.inf, 'not finite'),
        ('bn1.running_mean', np.inf, 'not finite'),
        ('layer4.1.bn2.running_var', -0.1, 'negative'),
    ],
)
def test_weights_that_are_no_numbers_are_refused(name, value, fault, suffix, tmp_path):
    path, weights = tmp_path / f'x.{suffix}', weights_for(SMALL)
    weights[name].reshape(-1)[-1] = value
    SAVE[suffix](weights, path)
    with pytest.raises(UserError, match=f'no network can start from: {name} is {fault}; get it again'):
        torchvision.read(str(path), SMALL)


def test_weights_beyond_float32_are_refused(tmp_path):
    weights = {name: array.astype(np.float64) for name, array in weights_for(SMALL).items()}
    weights['bn1.bias'][0] = 1e300
    np.savez(tmp_path / 'x.npz', **weights)
    with pytest.raises(UserError, match=r'bn1\.bias is not finite'):
        torchvision.read(str(tmp_path / 'x.npz'), SMALL)


def test_weights_of_another_backbone_are_refused(tmp_path):
    path = tmp_path / 'x.safetensors'
    save_file(weights_for(SMALL), path)
    with pytest.raises(
        UserError, match=r'of a resnet50 .*missing are .*; set config.weights, or config.model_type'
    ):
        torchvision.read(str(path), SMALL.clone(model_type='resnet50'))


def test_no_weights_read_nothing():
    assert torchvision.read('none', SMALL) == {}


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        (
            {'weights': 'imagnet'},
            "config.weights='imagnet' is not known; choose imagenet, none, or a file whose name",
        ),
        ({'weights': 'x.bin'}, r'ends in \.safetensors, \.npz, \.pth'),
        (
            {'weights': 'imagenet', 'width': 32},
            "weights='imagenet' needs .*not 32 and imagenet; .*weights=none",
        ),
        ({'weights': 'x.npz', 'stem': 'small'}, r"weights='x\.npz' needs .*not 64 and small"),
    ],
)
def test_a_config_that_no_weights_suit_is_refused(fields, message):
    config = default.get_config()
    config.update(weights='x.npz')
    configs.check(config)
    config.update(fields)
    with pytest.raises(UserError, match=message):
        configs.check(config)


def test_the_four_benchmarks_start_from_imagenet():
    for module in (car, cub, sop, isc):
        config = module.get_config()
        configs.check(config)
        assert config.weights == 'imagenet'
    assert default.get_config().weights == 'none'


def test_a_fresh_run_starts_from_them_and_a_resumed_one_needs_them_no_more(tmp_path):
    path, dataset = tmp_path / 'x.npz', tiny_dataset()
    config = tiny_config(weights=str(path))
    run = Run.of(config)
    weights = weights_for(run.model)
    with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
        with pytest.raises(UserError, match='there is no file'):
            resume.start(run, checkpoints, dataset, tmp_path)
        np.savez(path, **weights)
        fresh = resume.start(run, checkpoints, dataset, tmp_path)
        checkpoints.save(fresh.state, *fresh.saved_with(dataset, skipped=0))
        checkpoints.wait()
        path.unlink()
        again = resume.start(run, checkpoints, dataset, tmp_path)
    for params in (fresh.state.params, again.state.params):
        assert_array_equal(params['trunk']['conv1']['kernel'], weights['conv1.weight'].transpose(2, 3, 1, 0))
        for kernel in params['members']['layer4']['1']['conv2']['kernel']:
            assert_array_equal(kernel, weights['layer4.1.conv2.weight'].transpose(2, 3, 1, 0))
