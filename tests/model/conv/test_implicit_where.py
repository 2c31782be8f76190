"""Where the Triton kernels run: on which machine, and for which operands."""

import sys
import types

import jax
import jax.numpy as jnp
import pytest

from sreml_jax.model.conv import implicit
from sreml_jax.model.conv.geometry import Geometry


@pytest.fixture
def kernels(monkeypatch):
    """As if they could be compiled here."""
    monkeypatch.setattr(implicit, 'available', lambda: True)


def can_run(x, w, dtype=jnp.bfloat16, product='forward', **geometry):
    """Whether they take operands of these shapes."""
    g = Geometry((1, 1), ((1, 1), (1, 1)), 1)._replace(**geometry)
    return implicit.can_run(product, *(jax.ShapeDtypeStruct(shape, dtype) for shape in (x, w)), g)


X, W = (2, 3, 4, 4, 32), (2, 3, 3, 32, 32)


@pytest.mark.parametrize(
    ('x', 'w', 'more', 'taken'),
    [
        (X, W, {}, True),
        (X, W, {'dtype': jnp.float32}, False),
        (X[1:], W, {}, True),  # shared images
        (X[1:], W, {'product': 'input_gradient'}, False),
        ((*X[1:4], 64), (2, 3, 3, 32, 64), {'groups': 2}, False),  # of groups
        ((1, *X[1:]), (1, *W[1:]), {}, False),  # one member: the trunk
        ((*X[:4], 16), (2, 3, 3, 16, 32), {}, False),
        (X, (*W[:4], 16), {}, False),
        (X, W, {'strides': (1, 2)}, False),
        ((*X[:4], 128), (2, 3, 3, 4, 128), {'groups': 32}, True),
        ((*X[:4], 192), (2, 3, 3, 6, 192), {'groups': 32}, False),  # blocks of 12 channels
    ],
)
def test_what_the_kernels_do_not_take_is_left_to_xla(x, w, more, taken, kernels):
    assert can_run(x, w, **more) is taken


@pytest.mark.parametrize(
    ('images', 'features', 'taken'), [(1023, 128, True), (1024, 128, False), (512, 256, False)]
)
def test_places_in_memory_fit_int32(images, features, taken, kernels):
    assert taken is can_run((16, images, 32, 32, 128), (16, 3, 3, 128, features))


def test_only_bfloat16_on_a_hopper_gpu_with_the_extra_is_served(monkeypatch):
    assert not implicit.available() and not implicit.serves(jnp.bfloat16)  # this is a CPU
    monkeypatch.setattr(implicit, 'available', lambda: True)
    assert implicit.serves(jnp.bfloat16) and not implicit.serves(jnp.float32)


@pytest.mark.parametrize(
    ('backend', 'capability', 'module', 'triton', 'found', 'said'),
    [
        ('gpu', '9.0', 'pass', '3.6.0', True, ''),
        ('gpu', '9.0', 'pass', '3.9.0', False, 'Triton 3.9.0 ends a process that has tensorflow'),
        (
            'gpu',
            '9.0',
            'raise ImportError("no gpu_triton")',
            '3.6.1',
            False,
            'the convolutions: no gpu_triton',
        ),
        ('gpu', '9.0', None, '', False, 'sreml_jax[hopper]'),
        ('gpu', '8.0', 'pass', '3.6.0', False, ''),
        ('cpu', '9.0', 'pass', '3.6.0', False, ''),
    ],
)
def test_where_the_kernels_are_available(
    backend, capability, module, triton, found, said, tmp_path, monkeypatch, caplog
):
    caplog.set_level('INFO')
    if module:
        (tmp_path / 'jax_triton.py').write_text(module)
        (tmp_path / 'triton.py').touch()
    monkeypatch.setattr(sys, 'path', [str(tmp_path), *(sys.path if module else ())])
    for name in ('jax_triton', 'triton'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, 'tensorflow', types.ModuleType('tensorflow'))
    monkeypatch.setattr(implicit, 'version', lambda _: triton)
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    monkeypatch.setattr(jax, 'devices', lambda: [types.SimpleNamespace(compute_capability=capability)])
    assert implicit.available.__wrapped__() is found
    monkeypatch.delitem(sys.modules, 'jax_triton', raising=False)
    assert said in caplog.text and bool(said) == bool(caplog.text)
