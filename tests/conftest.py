"""Set-up of the test run: eight virtual CPU devices, of which most tests use the first.

Most of the time goes into compiling. So what one test compiles, the others (and the programs that they start)
need not compile again, and LLVM does not optimize: what it makes faster runs once here. `optimized` has the
options of a test that is about the rounding of the code that users run; launch/test_matrix.sh runs all tests
that way.
"""

import os
import shutil
import tempfile

import pytest

LEVEL = 'xla_backend_optimization_level'

flags = os.environ.get('XLA_FLAGS', '')
os.environ['XLA_FLAGS'] = f'{flags} --xla_force_host_platform_device_count=8'
if LEVEL not in flags:
    os.environ['XLA_FLAGS'] += f' --{LEVEL}=0'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

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
