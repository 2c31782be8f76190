"""What a step frees is kept for the next one, and what no step will take is given back."""

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


LEAVE_A_HOLE = """
import numpy as np
from sreml_jax import heap

heap.keep_freed_memory()
megabytes = lambda: heap._anonymous_bytes() >> 20
holes = heap.Holes(least=2**26)
start = megabytes()
step = np.ones(2**28, np.uint8)
small = np.ones(2**20, np.uint8)
holes.give_back()
print(megabytes() - start)
del step
holes.give_back()
print(megabytes() - start)
step = np.ones(2**28 + 2**20, np.uint8)
print(megabytes() - start)
holes.give_back()
print(megabytes() - start)
assert small.all() and step.all()
"""


@pytest.mark.skipif(sys.platform != 'linux', reason="mallopt is glibc's")
def test_a_hole_that_the_next_step_does_not_fit_in_is_given_back():
    code = [sys.executable, '-c', LEAVE_A_HOLE]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    in_use, kept, both, given_back = map(int, done.stdout.split())
    assert in_use == pytest.approx(257, abs=8)
    assert kept == pytest.approx(257, abs=8)  # the next step may take it
    assert both == pytest.approx(514, abs=8)
    assert given_back == pytest.approx(258, abs=8)
