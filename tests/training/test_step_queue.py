"""Which steps wait for the one before: on a CPU two steps that overlap hold the memory of two."""

import jax
import pytest
from support.runs import NoSignals
from support.tiny import tiny_config, tiny_dataset

from sreml_jax.train import train
from sreml_jax.training import step
from sreml_jax.training.writer import Progress

pytestmark = pytest.mark.usefixtures('few_blocks')


@pytest.mark.parametrize(
    ('backend', 'expected'),
    [
        ('cpu', ['step 1', 'shown 1', 'step 2', 'shown 2', 'step 3']),
        ('gpu', ['step 1', 'step 2', 'shown 1', 'step 3', 'shown 2']),
    ],
)
def test_a_cpu_waits_for_each_step_and_an_accelerator_queues_one(backend, expected, tmp_path, monkeypatch):
    order = []
    make, show = step.make_train_step, Progress.show

    def make_train_step(*args, **kwargs):
        train_step = make(*args, **kwargs)

        def run(*args):
            order.append(f'step {1 + sum(line.startswith("step") for line in order)}')
            return train_step(*args)

        return run

    def shown(progress, number, scalars):
        order.append(f'shown {number}')
        show(progress, number, scalars)

    monkeypatch.setattr(step, 'make_train_step', make_train_step)
    monkeypatch.setattr(Progress, 'show', shown)
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    train(tiny_config(), tmp_path, tiny_dataset(), NoSignals())
    assert order[:5] == expected
