"""Set-up of the test run: eight virtual CPU devices, of which most tests use the first.

Most of the time goes into compiling. So what one test compiles, the others (and the programs that they start)
need not compile again, and LLVM does not optimize: what it makes faster runs once here. XLA's older emitters
write the code of its fusions in half of the time of the new ones. launch/test_matrix.sh compiles as users do.
"""

import contextlib
import gc
import os
import shutil
import tempfile
from importlib.metadata import version

import pytest

LEVEL = 'xla_backend_optimization_level'
EMITTERS = 'xla_cpu_use_fusion_emitters'

flags = os.environ.get('XLA_FLAGS', '')
os.environ['XLA_FLAGS'] = f'{flags} --xla_force_host_platform_device_count=8'
if LEVEL not in flags:
    os.environ['XLA_FLAGS'] += f' --{LEVEL}=0'
    if version('jaxlib').startswith('0.10.'):  # later ones have the new emitters alone
        os.environ['XLA_FLAGS'] += f' --{EMITTERS}=false'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['TRITON_INTERPRET'] = '1'  # see support/interpreter.py
with contextlib.suppress(ModuleNotFoundError):
    import triton  # noqa: F401  Triton 3.7 and later end a process that has tensorflow already

# Tracing makes many small objects that live: Python looks for circles among them a tenth of the time.
gc.set_threshold(50_000)

_compiled = None
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    _compiled = tempfile.mkdtemp(prefix='sreml-test-')
    os.environ['JAX_COMPILATION_CACHE_DIR'] = _compiled
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'


@pytest.fixture(scope='module')
def few_blocks():
    """A ResNet-18 with half of its blocks, which compiles in half the time, where no block matters."""
    from sreml_jax.model import resnet

    with pytest.MonkeyPatch.context() as patch:
        backbone = resnet.BACKBONES['resnet18']
        patch.setitem(resnet.BACKBONES, 'resnet18', backbone._replace(blocks=(1, 1, 1, 1)))
        yield


def pytest_unconfigure():
    """Removes the compiled programs where this process, not another test process, made their folder."""
    if _compiled:
        shutil.rmtree(_compiled, ignore_errors=True)
