"""Damaged files of weights are read or refused.

`SREML_FUZZ=100 python -m pytest -s -n0 tests/fuzz/test_weights_fuzz.py` tries 100 times as many.
"""

import numpy as np
import pytest
from safetensors.numpy import save_file
from support import fuzz

from sreml_jax.model.weights import files

ARRAYS = {f'layer{i}.weight': np.arange(20, dtype=np.float32).reshape(4, 5) + i for i in range(5)}
SAVE = {'.npz': lambda path: np.savez(path, **ARRAYS), '.safetensors': lambda path: save_file(ARRAYS, path)}


@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('suffix', SAVE)
def test_damaged_files(suffix, tmp_path):
    path = tmp_path / f'x{suffix}'
    SAVE[suffix](path)

    def read(damaged):
        path.write_bytes(damaged)
        assert all(isinstance(array, np.ndarray) for array in files.read(path).values())

    assert fuzz.count(read, fuzz.cases([path.read_bytes()], 300))['refused']
