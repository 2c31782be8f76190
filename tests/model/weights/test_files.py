"""Files of weights: what was written comes back, and nothing in them is run."""

import os
import pickle
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import save_file

from sreml_jax.model.weights import files
from sreml_jax.runtime.errors import UserError

ARRAYS = {
    'conv1.weight': np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) / 7,
    'bn1.bias': np.array([0.5, -3], np.float16),
    'bn1.num_batches_tracked': np.array(9, np.int64),
}


def check_same(found):
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].shape == array.shape
        assert_array_equal(found[name], array)


def test_safetensors(tmp_path):
    save_file(ARRAYS, tmp_path / 'x.safetensors')
    check_same(files.read(tmp_path / 'x.safetensors'))


def test_npz(tmp_path):
    np.savez(tmp_path / 'x.npz', **ARRAYS)
    check_same(files.read(tmp_path / 'x.npz'))


@pytest.mark.parametrize('zipped', [True, False])
def test_pth_new_and_old(tmp_path, zipped):
    torch = pytest.importorskip('torch')
    state = {name: torch.tensor(array) for name, array in ARRAYS.items()}
    state['conv1.weight'] = torch.nn.Parameter(state['conv1.weight'])
    torch.save(state, tmp_path / 'x.pth', _use_new_zipfile_serialization=zipped)
    check_same(files.read(tmp_path / 'x.pth'))


def test_bfloat16(tmp_path):
    values = np.array([1, -0.5, 3.25])  # exact in 8 bits
    save_file({'a': values.astype(ml_dtypes.bfloat16)}, tmp_path / 'x.safetensors')
    assert_array_equal(files.read(tmp_path / 'x.safetensors')['a'].astype(float), values)
    torch = pytest.importorskip('torch')
    torch.save({'a': torch.tensor(values, dtype=torch.bfloat16)}, tmp_path / 'x.pth')
    assert_array_equal(files.read(tmp_path / 'x.pth')['a'], values)


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_no_code_in_a_file_is_run(tmp_path):
    pytest.importorskip('torch')
    proof = tmp_path / 'proof'
    code = pickle.dumps({'conv1.weight': Command(proof)})
    (tmp_path / 'old.pth').write_bytes(code)
    with zipfile.ZipFile(tmp_path / 'new.pth', 'w') as file:
        file.writestr('new/data.pkl', code)
        file.writestr('new/version', '3\n')
    np.savez(tmp_path / 'x.npz', a=np.array([Command(proof)], object))
    for name in ('old.pth', 'new.pth', 'x.npz'):
        with pytest.raises(UserError, match=f'{name} cannot be read as a .* of named arrays'):
            files.read(tmp_path / name)
    assert not proof.exists()
    pickle.loads(code)  # it would have
    assert proof.exists()


@pytest.mark.parametrize('suffix', ['.safetensors', '.npz', '.pth'])
@pytest.mark.parametrize('content', [b'', b'<html>no such page</html>', b'\0' * 1000])
def test_another_kind_of_file_is_refused(tmp_path, suffix, content):
    if suffix == '.pth':
        pytest.importorskip('torch')
    path = tmp_path / f'x{suffix}'
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=f'x{suffix} cannot be read as a {suffix} file of named arrays: it is damaged or'
    ):
        files.read(path)


@pytest.mark.parametrize('suffix', ['.safetensors', '.npz', '.pth'])
def test_half_a_file_is_refused(tmp_path, suffix):
    path = tmp_path / f'x{suffix}'
    if suffix == '.pth':
        torch = pytest.importorskip('torch')
        torch.save({name: torch.tensor(array) for name, array in ARRAYS.items()}, path)
    else:
        {'.safetensors': save_file, '.npz': lambda a, p: np.savez(p, **a)}[suffix](ARRAYS, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match='cannot be read'):
        files.read(path)


def test_a_whole_model_in_a_pth_is_refused(tmp_path):
    torch = pytest.importorskip('torch')
    torch.save(torch.nn.Linear(2, 2), tmp_path / 'x.pth')
    with pytest.raises(UserError, match=r'x\.pth cannot be read'):
        files.read(tmp_path / 'x.pth')
    torch.save({'state_dict': {'a': torch.zeros(1)}, 'epoch': 3}, tmp_path / 'x.pth')
    with pytest.raises(UserError, match=r'x\.pth cannot be read'):
        files.read(tmp_path / 'x.pth')


def test_a_pth_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    (tmp_path / 'x.pth').write_bytes(b'')
    with pytest.raises(UserError, match=r'x\.pth is a PyTorch file, and torch is not installed; install'):
        files.read(tmp_path / 'x.pth')


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match=r'there is no file .*x\.npz; set config.weights to an existing file'):
        files.read(tmp_path / 'x.npz')
