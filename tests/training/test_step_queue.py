"""Which steps wait for the one before: on a CPU two that overlap hold the memory of two."""

import jax
import pytest
from support.runs import NoSignals
from support.tiny import tiny_config, tiny_dataset

from sreml_jax.describe import device_memory
from sreml_jax.runtime import machine
from sreml_jax.train import may_run_ahead, train
from sreml_jax.training import step
from sreml_jax.training.metrics_log import Journal


def test_on_a_cpu_steps_queue_up_only_where_memory_is_plenty(monkeypatch):
    config = tiny_config()
    needed = device_memory(config) * jax.local_device_count()
    for free, ahead in ((4 * needed, False), (4 * needed + 1, True)):
        monkeypatch.setattr(machine, 'free_memory', lambda free=free: free)
        assert may_run_ahead(config) == ahead
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(machine, 'free_memory', lambda: 0)
    assert may_run_ahead(config)


@pytest.mark.parametrize(
    ('free', 'expected'),
    [
        (0, ['step 1', 'told 1', 'step 2', 'told 2', 'step 3']),
        (2**40, ['step 1', 'step 2', 'told 1', 'step 3', 'told 2']),
    ],
)
def test_what_a_step_waits_for(free, expected, tmp_path, monkeypatch):
    order = []
    make, tell = step.make_train_step, Journal.tell

    def make_train_step(*args, **kwargs):
        train_step = make(*args, **kwargs)

        def run(*args):
            order.append(f'step {1 + sum(line.startswith("step") for line in order)}')
            return train_step(*args)

        return run

    def told(journal, number, metrics):
        order.append(f'told {number}')
        tell(journal, number, metrics)

    monkeypatch.setattr(step, 'make_train_step', make_train_step)
    monkeypatch.setattr(Journal, 'tell', told)
    monkeypatch.setattr(machine, 'free_memory', lambda: free)
    train(tiny_config(), tmp_path, tiny_dataset(), NoSignals())
    assert order[:5] == expected
