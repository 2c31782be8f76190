"""tensorflow is imported without keras."""

import subprocess
import sys


def test_tensorflow_comes_without_keras():
    code = """
import sys
from sreml_jax.data.tensorflow_import import import_tensorflow
import_tensorflow()
import tensorflow_datasets
print('tensorflow' in sys.modules, 'keras' in sys.modules)
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['True', 'False']
