"""What takes seconds to import is left out, also where it is installed."""

import subprocess
import sys

import pytest

from sreml_jax.runtime.imports import import_without


def printed(code):
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """`heavy`, and `light`, which takes it where it can."""
    (tmp_path / 'heavy.py').write_text('')
    (tmp_path / 'light.py').write_text('try:\n    import heavy\nexcept ImportError:\n    heavy = None\n')
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ('heavy', 'light'):
        sys.modules.pop(name, None)


def test_what_is_left_out_can_be_imported_later(packages):
    assert import_without('heavy', 'light').heavy is None
    assert __import__('heavy').__name__ == 'heavy'


def test_what_is_there_already_stays(packages):
    heavy = __import__('heavy')
    assert import_without('heavy', 'light').heavy is heavy and sys.modules['heavy'] is heavy


def test_a_failed_import_leaves_no_trace(packages):
    with pytest.raises(ModuleNotFoundError, match='nowhere'):
        import_without('heavy', 'nowhere')
    assert 'heavy' not in sys.modules


def test_a_run_needs_no_torch():
    pytest.importorskip('torch', reason='torch is not installed')
    code = 'import sys, sreml_jax.train, sreml_jax.evaluate; print(*sys.modules)'
    modules = printed(code)
    assert 'tensorboardX' in modules and 'torch' not in modules


def test_tensorflow_comes_without_keras():
    code = """
import sys
from sreml_jax.data.tensorflow_import import import_tensorflow
import_tensorflow()
import tensorflow_datasets
print('tensorflow' in sys.modules, 'keras' in sys.modules)
"""
    assert printed(code) == ['True', 'False']
