"""What needs more memory than is free is refused before anything is allocated."""

import jax
import numpy as np
import pytest
from support.tiny import tiny_config, tiny_dataset

from sreml_jax import memory, needs
from sreml_jax.model import init
from sreml_jax.run import Run, model_of
from sreml_jax.runtime import machine
from sreml_jax.runtime.errors import UserError
from sreml_jax.training import step

GIB = 2**30


def test_training_that_cannot_fit_is_refused_before_anything_is_allocated(monkeypatch):
    config = tiny_config(ensemble_size=48, image_size=256, width=64, stem='imagenet', batch_size=12)
    needed = sum(memory.training_needs(config).values())
    assert needed == needs.device_memory(config)
    monkeypatch.setattr(machine, 'free_memory', lambda: needed)
    memory.refuse_training(config)
    monkeypatch.setattr(machine, 'free_memory', lambda: 0)  # unknown
    memory.refuse_training(config)
    monkeypatch.setattr(machine, 'free_memory', lambda: needed - 1)
    sentence = (
        rf'needs {needed / GIB:.1f} GiB of memory on this machine \(activations .*\), and '
        rf'{needed / GIB:.1f} GiB are free; lower config.ensemble_size=48 or config.image_size=256 first'
    )
    with pytest.raises(UserError, match=sentence):
        memory.refuse_training(config)


def test_virtual_devices_share_the_memory_of_their_host():
    config = tiny_config(gpu_ids=(0, 1))
    assert sum(memory.training_needs(config).values()) == 2 * needs.device_memory(config)


@pytest.mark.parametrize(
    'fields',
    [{}, {'image_size': 64, 'width': 16, 'mirrored': True}, {'embedding': 'pooled', 'mesh': (2, 1)}],
    ids=str,
)
def test_embedding_needs_no_more_than_the_compiled_program_holds(fields):
    config = tiny_config(gpu_ids=(0, 1) if 'mesh' in fields else (0,), **fields)
    run = Run.of(config)
    embed = step.make_embed_step(run.model, run.mesh, np.zeros(3, 'f'), np.ones(3, 'f'))
    images = jax.ShapeDtypeStruct((config.eval_batch_size, *2 * (config.image_size,), 3), np.uint8)
    sizes = embed.lower(run.abstract_variables(), images).compile().memory_analysis()
    needs = memory.embedding_needs(config)
    devices = run.mesh.size
    rows = config.eval_batch_size * config.image_size**2 * 3
    weights = devices * sizes.argument_size_in_bytes - rows
    # Without a classifier's weights, pooled features are compiled from fewer arguments.
    assert needs['weights'] == pytest.approx(weights, rel=0.01)
    assert 0.1 < needs['activations'] / (devices * sizes.temp_size_in_bytes) <= 1


def test_embedding_that_cannot_fit_is_refused(monkeypatch):
    config = tiny_config(ensemble_size=48, image_size=256, width=64, stem='imagenet', eval_batch_size=512)
    # layer2's first convolution: 64x64x64 from the trunk, 32x32x128 of each member, float32.
    largest = 512 * 4 * (64 * 64 * 64 + 48 * 32 * 32 * 128)
    assert memory.embedding_needs(config)['activations'] >= largest
    needed = sum(memory.embedding_needs(config).values())
    for free in (0, needed):  # 0: unknown
        monkeypatch.setattr(machine, 'free_memory', lambda free=free: free)
        memory.refuse_embedding(config)
    monkeypatch.setattr(machine, 'free_memory', lambda: needed - 1)
    with pytest.raises(
        UserError,
        match=r'embedding needs .* GiB of memory on this machine \(activations .*'
        'are free; lower config.eval_batch_size=512 first; ',
    ):
        memory.refuse_embedding(config)


def test_evaluation_counts_the_embeddings_that_it_holds(monkeypatch):
    config, dataset = tiny_config(embedding='pooled', embedding_dim=3), tiny_dataset()
    dimensions = 2 * 4 * 8  # members, width, and ResNet-18's last layer is 8 times as wide
    held = 4 * dimensions * (42 + 2 * 36)
    needed = sum(memory.embedding_needs(config).values()) + held
    monkeypatch.setattr(machine, 'free_memory', lambda: needed)
    memory.refuse_evaluation(config, dataset)
    monkeypatch.setattr(machine, 'free_memory', lambda: needed - 1)
    with pytest.raises(UserError, match='evaluation needs'):
        memory.refuse_evaluation(config, dataset)


def test_the_sentence_names_what_shortens_embeddings(monkeypatch):
    monkeypatch.setattr(machine, 'free_memory', lambda: GIB)
    for fields, advice in (
        ({'embedding': 'pooled'}, 'GiB are free; set config.embedding=logits, which makes shorter ones'),
        (
            {},
            'GiB are free; take fewer images than 1,000,000,000, or a run of a lower config.ensemble_size=2',
        ),
    ):
        with pytest.raises(UserError, match=rf'\(embeddings .*{advice}'):
            memory.refuse_embedding(tiny_config(**fields), images=10**9)


def test_a_gpus_embeddings_lie_on_the_host(monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(memory, 'free', lambda: GIB)
    monkeypatch.setattr(machine, 'free_memory', lambda: 10 * GIB)
    memory.refuse_embedding(tiny_config(), images=10**8)  # 3.2 GB
    with pytest.raises(UserError, match='on this machine'):
        memory.refuse_embedding(tiny_config(), images=10**9)
    monkeypatch.setattr(memory, 'free', lambda: 1000)
    with pytest.raises(UserError, match='on a GPU'):
        memory.refuse_embedding(tiny_config())


def test_of_several_gpus_the_fullest_counts(monkeypatch):
    class Gpu:
        def __init__(self, limit, used):
            self._stats = {'bytes_limit': limit, 'bytes_in_use': used}

        def memory_stats(self):
            return self._stats

    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(jax, 'local_devices', lambda: [Gpu(100, 20), Gpu(100, 70)])
    assert memory.free() == 30


def test_on_a_gpu_the_host_must_hold_a_checkpoint(monkeypatch):
    config = tiny_config(mesh=(1, 1))
    saved = needs.checkpoint_size(init.shapes(model_of(config)))
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(memory, 'free', lambda: 2**50)
    monkeypatch.setattr(machine, 'free_memory', lambda: saved)
    memory.refuse_training(config)
    monkeypatch.setattr(machine, 'free_memory', lambda: saved - 1)
    with pytest.raises(UserError, match=r'a checkpoint takes .* lower config.ensemble_size=2'):
        memory.refuse_training(config)
