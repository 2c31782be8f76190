"""Refuses what needs more memory than is free, before anything is allocated."""

import math

import jax
from ml_collections import ConfigDict

from sreml_jax.data.dataset import Dataset
from sreml_jax.model import init
from sreml_jax.model.cost import forward_bytes
from sreml_jax.needs import GIB, checkpoint_size, mesh_shape, on_device, size
from sreml_jax.retrieval import pca
from sreml_jax.run import model_of
from sreml_jax.runtime import machine
from sreml_jax.runtime.errors import UserError

_EMBEDDINGS = 'embeddings'


def free() -> int:
    """Returns the bytes that are free on the fullest GPU, or on the host if there is none; 0: unknown."""
    if _on_cpu():
        return machine.free_memory()
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return min(s.get('bytes_limit', 0) - s.get('bytes_in_use', 0) for s in stats)


def training_needs(config: ConfigDict) -> dict[str, int]:
    """Returns bytes by kind that training takes of the memory that `free` measures.

    That is a GPU's own; the CPU devices of a process share the host's.
    """
    return {kind: _sharing(config) * n for kind, n in on_device(config).items()}


def embedding_needs(config: ConfigDict) -> dict[str, int]:
    """Returns the least bytes by kind that embedding takes of the memory that `free` measures."""
    model, (data, member) = model_of(config), mesh_shape(config)
    variables = init.shapes(model)
    members = {part: tree['members'] for part, tree in variables.items()}
    local = model.clone(members=model.members // member)
    images = config.eval_batch_size // data * (2 if config.mirrored else 1)
    needs = {
        'weights': size(variables) - size(members) + size(members) // member,
        'activations': forward_bytes(local, config.image_size, images),
    }
    return {kind: _sharing(config) * n for kind, n in needs.items()}


def refuse_training(config: ConfigDict) -> None:
    """Raises UserError if training needs more memory than is free, by estimate; allocates nothing."""
    advice = (
        f'lower config.ensemble_size={config.ensemble_size} or config.image_size={config.image_size} first, '
        f'then config.batch_size={config.batch_size}' + ('' if config.remat else ', or set config.remat=True')
    )
    _refuse('training', training_needs(config), free(), advice, gpu=not _on_cpu())
    saved = checkpoint_size(init.shapes(model_of(config))) // jax.process_count()
    host = machine.free_memory()
    if not _on_cpu() and 0 < host < saved:
        raise UserError(
            f'a checkpoint takes {saved / GIB:.1f} GiB of memory on this machine on its way to the disk, and '
            f'{host / GIB:.1f} GiB are free; lower config.ensemble_size={config.ensemble_size}'
        )


def refuse_embedding(config: ConfigDict, *, images: int = 0, doing: str = 'embedding') -> None:
    """Raises UserError if embedding surely needs more memory than is free; allocates nothing.

    The estimate is what embedding takes at the least.

    Args:
      config: of the embedder.
      images: whose embeddings are held in memory together.
      doing: what the sentence begins with.
    """
    needs = embedding_needs(config)
    dimensions = config.embedding_dim or model_of(config).dimensions
    kept = {_EMBEDDINGS: 4 * images * dimensions} if images else {}
    if not _on_cpu():
        _refuse(doing, needs, free(), _smaller_batches(config), gpu=True)
        needs = {}
    needs |= kept
    longest = max(needs, key=lambda kind: needs[kind], default='')
    advice = _shorter(config, images) if longest == _EMBEDDINGS else _smaller_batches(config)
    refuse_on_host(doing, needs, advice)


def refuse_on_host(doing: str, needs: dict[str, int], advice: str) -> None:
    """Raises UserError if more memory of the host is needed, bytes by kind, than is free.

    Args:
      doing: what the sentence begins with: 'training'.
      needs: bytes by kind.
      advice: what lowers them, the end of the sentence.
    """
    _refuse(doing, needs, machine.free_memory(), advice)


def refuse_evaluation(config: ConfigDict, dataset: Dataset) -> None:
    """Raises UserError if --mode=eval surely needs more memory than is free; see `refuse_embedding`."""
    tested = sum(len(dataset.labels[split]) for split in dict.fromkeys(dataset.evaluation_splits))
    # The PCA is fitted on training embeddings and a centered copy of them, all of their dimensions.
    fitted_on = min(len(dataset.labels['train']), pca.IMAGES)
    whole = config.copy_and_resolve_references()
    whole.embedding_dim = 0
    refuse_embedding(whole, images=tested + 2 * fitted_on, doing='evaluation')


def _on_cpu() -> bool:
    return jax.default_backend() == 'cpu'


def _sharing(config: ConfigDict) -> int:
    """Returns how many devices of the config's mesh share the memory that `free` measures."""
    return math.prod(mesh_shape(config)) // jax.process_count() if _on_cpu() else 1


def _smaller_batches(config: ConfigDict) -> str:
    """Returns what lowers the memory of a batch."""
    return (
        f'lower config.eval_batch_size={config.eval_batch_size} first; a smaller '
        f'config.model_type={config.model_type}, config.image_size={config.image_size} or '
        f'config.ensemble_size={config.ensemble_size} needs less, in a run or an index of its own'
    )


def _shorter(config: ConfigDict, images: int) -> str:
    """Returns what lowers the memory of embeddings."""
    fewer = f'take fewer images than {images:,}'
    if config.embedding == 'pooled' and config.ensemble_size > 1 and not config.embedding_dim:
        return f'set config.embedding=logits, which makes shorter ones, or {fewer}'
    return f'{fewer}, or a run of a lower config.ensemble_size={config.ensemble_size}'


def _refuse(doing: str, needs: dict[str, int], free: int, advice: str, *, gpu: bool = False) -> None:
    """Raises UserError if the needs, bytes by kind, are greater than the free memory; 0: nobody knows it."""
    if 0 < free < sum(needs.values()):
        largest = sorted(needs.items(), key=lambda item: -item[1])[:2]
        raise UserError(
            f'{doing} needs {sum(needs.values()) / GIB:.1f} GiB of memory on '
            f'{"a GPU" if gpu else "this machine"} ('
            + ', '.join(f'{kind} {n / GIB:.1f}' for kind, n in largest)
            + f'), and {free / GIB:.1f} GiB are free; {advice}'
        )
