"""Set-up of the test run: eight virtual CPU devices, of which most tests use the first.

What one test compiles, the others (and the programs that they start) need not compile again.
"""

import os
import shutil
import tempfile

os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

_compiled = None
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    _compiled = tempfile.mkdtemp(prefix='sreml-test-')
    os.environ['JAX_COMPILATION_CACHE_DIR'] = _compiled
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.3'


def pytest_unconfigure():
    """Removes the compiled programs where this process, not another test process, made their folder."""
    if _compiled:
        shutil.rmtree(_compiled, ignore_errors=True)
