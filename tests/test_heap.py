"""What a step frees is kept for the next one."""

import subprocess
import sys

import pytest

TAKE_AND_FREE = """
import resource, threading
import numpy as np
from sreml_jax import heap

if {kept}:
    heap.keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**26, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def run():
    faults()
    print(faults())

run()
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


@pytest.mark.skipif(sys.platform != 'linux', reason="mallopt is glibc's")
@pytest.mark.parametrize(('kept', 'least', 'most'), [(False, 32, 2**20), (True, 0, 16)])
def test_a_large_buffer_taken_again_costs_no_page_faults(kept, least, most):
    code = TAKE_AND_FREE.format(kept=kept)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert all(least <= int(faults) <= most for faults in done.stdout.split()), done.stdout
