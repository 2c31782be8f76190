"""Reads files of named weights as numpy arrays. No code in a file is ever run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from sreml_jax.runtime.errors import UserError


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of a .safetensors, .npz or .pth file under their names.

    A .pth file is a state dict written by `torch.save`. Reading it needs torch and converts floats to
    float32.

    Raises:
      UserError: the file is missing, damaged or of another format, or torch is needed and not installed.
    """
    refuse_missing(path)
    try:
        return READERS[path.suffix](path)
    except ImportError as error:
        raise UserError(
            f'{path} is a PyTorch file, and torch is not installed; install torch, or convert the file to '
            '.safetensors or .npz on a machine that has it'
        ) from error
    except Exception as error:  # each format has its own exceptions, and a damaged file can raise nearly all
        reason = f' ({error.strerror})' if isinstance(error, OSError) and error.strerror else ''
        raise UserError(
            f'{path} cannot be read as a {path.suffix} file of named arrays{reason}: it is damaged or has '
            'another format; fetch it again, or set config.weights to another file'
        ) from error


def refuse_missing(path: Path) -> None:
    """Raises UserError if there is no such file."""
    if not path.is_file():
        raise UserError(f'there is no file {path}; set config.weights to an existing file, or to none')


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _read_pth(path: Path) -> dict[str, np.ndarray]:
    import torch

    state = torch.load(path, map_location='cpu', weights_only=True)
    return {
        name: (x.float() if x.is_floating_point() else x).detach().numpy()  # numpy has no bfloat16
        for name, x in state.items()
    }


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    '.safetensors': load_file,
    '.npz': _read_npz,
    '.pth': _read_pth,
}
