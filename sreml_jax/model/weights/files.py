"""Files of named weights, to numpy arrays. Nothing in a file is ever run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from sreml_jax.runtime.errors import UserError


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of a .safetensors, .npz or .pth file, under their names in it.

    A .pth is a state dict as `torch.save` writes it; it needs torch, and its floating arrays come as float32.

    Raises:
      UserError: there is no such file, it is not (whole) what its name ends in, or it needs torch in vain.
    """
    refuse_missing(path)
    try:
        return READERS[path.suffix](path)
    except ImportError as error:
        raise UserError(
            f'{path} is a file of PyTorch, and torch is not installed; install torch, or turn the file into '
            '.safetensors or .npz where it is'
        ) from error
    except Exception as error:  # each format has its own exceptions, and a damaged file can raise nearly any
        reason = f' ({error.strerror})' if isinstance(error, OSError) and error.strerror else ''
        raise UserError(
            f'{path} cannot be read as a {path.suffix} of named arrays{reason}: it is damaged, or something '
            'else; get it anew, or set config.weights to another'
        ) from error


def refuse_missing(path: Path) -> None:
    """Raises UserError if there is no such file."""
    if not path.is_file():
        raise UserError(f'there is no file {path}; set config.weights to one that is there, or to none')


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
