"""What can go wrong while arrays are computed, as sentences."""

import contextlib
from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from sreml_jax.runtime.errors import RunError, UserError


@contextlib.contextmanager
def explained(config: ConfigDict) -> Iterator[None]:
    """Raises a UserError or RunError in the place of JAX's own error, where its cause is known."""
    try:
        yield
    except MemoryError as error:
        raise UserError(
            f'this machine has too little memory ({error}); config.embedding=logits makes the shortest '
            'embeddings, and fewer members make shorter ones'
        ) from error
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' in str(error):
            raise UserError(_out_of_memory(config)) from error
        if jax.process_count() > 1:
            raise RunError(
                'another process of this run has died or cannot be reached '
                f'({str(error).splitlines()[0]}); start all again: they go on from the newest checkpoint'
            ) from error
        raise


def _out_of_memory(config: ConfigDict) -> str:
    from sreml_jax.needs import device_memory

    needed = device_memory(config)
    return (
        f'a device has too little memory: by estimate training needs {needed / 2**30:.1f} GiB on each; lower '
        f'config.batch_size={config.batch_size} or config.eval_batch_size={config.eval_batch_size}, set '
        'config.dtype=bfloat16 or config.remat=True, or share the members among more devices'
    )
