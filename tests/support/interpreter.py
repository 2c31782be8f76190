"""Runs Triton's kernels in its interpreter, on a CPU: slow, but the kernels' own text.

tests/conftest.py chooses it, before Triton is imported. It has no products of bfloat16.
"""

import threading

import jax
import numpy as np
import pytest

LOCK = threading.Lock()  # XLA calls back from several threads, and the interpreter has one state


def launch(kernel, operands, results, grid, constants):
    """Replaces `implicit._launch`; every element that a kernel does not write is NaN."""
    constants = {name: value for name, value in constants.items() if name.isupper()}

    def run(*arrays):
        import torch

        from sreml_jax.model.conv import implicit_kernels

        found = [torch.full(result.shape, float('nan')) for result in results]
        found = [f.to(getattr(torch, r.dtype.name)) for f, r in zip(found, results, strict=True)]
        given = [torch.from_numpy(np.array(x)) for x in arrays]
        with LOCK:
            getattr(implicit_kernels, kernel)[grid](*given, *found, **constants)
        return [f.numpy() for f in found]

    return jax.pure_callback(run, list(results), *operands)


def install(monkeypatch, dtype) -> None:
    """Makes 'auto' run convolutions of `dtype` by the kernels, interpreted."""
    pytest.importorskip('triton', reason='the kernels need triton')
    pytest.importorskip('torch', reason="Triton's interpreter takes PyTorch's tensors")
    from sreml_jax.model.conv import implicit

    monkeypatch.setattr(implicit, '_launch', launch)
    monkeypatch.setattr(implicit, 'available', lambda: True)
    monkeypatch.setattr(implicit, 'serves', lambda other: np.dtype(other) == np.dtype(dtype))
