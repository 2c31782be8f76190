"""Epochs count, whatever number of steps they have when a run goes on."""

import numpy as np
import pytest
from support.runs import NoSignals, StopAfter, final_state, lines
from support.tiny import tiny_config, tiny_dataset

from sreml_jax.train import train
from sreml_jax.training import optimizer
from sreml_jax.training.epochs import Epochs

pytestmark = pytest.mark.usefixtures('few_blocks')


def place(epochs):
    return {'steps_per_epoch': epochs.steps, 'offset': epochs.offset}


def test_the_share_of_epochs_done_stays():
    first = Epochs(6, 10)
    assert (first.last, first.of(10), first.of(11)) == (60, 1, 2)
    assert Epochs.going_on(6, 10, 25, place(first)) == Epochs.going_on(6, 10, 25, {}) == first

    longer = Epochs.going_on(6, 4, 25, place(first))  # the batch is larger: 2.5 epochs are 10 steps
    assert (longer.done(25), longer.last) == (10, 25 + 14)
    assert [longer.of(step) for step in (26, 27, 28)] == [3, 3, 4]
    assert [longer.of(step) for step in range(27, 40, 4)] == [3, 4, 5, 6]

    shorter = Epochs.going_on(6, 15, 30, place(longer))  # 3.75 epochs are 56.25 steps
    assert (shorter.done(30), shorter.last) == (56, 30 + 90 - 56)
    assert Epochs.going_on(6, 15, 30, place(shorter)) == shorter


@pytest.mark.parametrize('offset', [-7, 0, 5])
def test_the_learning_rate_follows_the_epochs(offset):
    epochs = Epochs(4, 10, offset)
    config = tiny_config(num_epochs=4, schedule='cosine', warmup_epochs=1)
    rate = epochs.shifted(optimizer.schedule(config, 10))
    for step in range(max(offset, 0), epochs.last):
        done = step - offset
        expected = 1e-3 * min(1, (done + 1) / 10) * (1 + np.cos(np.pi * done / 40)) / 2
        assert float(rate(step)) == pytest.approx(expected, abs=1e-9)
    if offset > 0:
        assert rate(0) == rate(offset) > 0


class Watched:
    """A dataset that keeps the images of every training batch."""

    def __init__(self, dataset):
        self._dataset, self.batches = dataset, []

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    def train_batches(self, *args):
        for batch in self._dataset.train_batches(*args):
            self.batches.append(batch['image'])
            yield batch


def test_twice_the_batch_in_the_middle_leaves_as_many_epochs(tmp_path, caplog):
    with pytest.raises(SystemExit):
        train(tiny_config(), tmp_path, tiny_dataset(), StopAfter(7))
    before, dataset = lines(tmp_path), Watched(tiny_dataset())
    changed = {'batch_size': 16, 'learning_rate': 2e-3, 'mesh': (1, 2), 'gpu_ids': (0, 1)}
    with caplog.at_level('INFO', 'sreml_jax'):
        train(tiny_config(**changed), tmp_path, dataset, NoSignals())
    # 7 of 12 steps are 3.5 of 6 with the larger batch; 3 more are left.
    logged, last = lines(tmp_path), 10
    assert logged[:7] == before
    assert [line['step'] for line in logged] == list(range(1, last + 1))
    # Multiplied after int(1.5) and int(2.1) epochs.
    np.testing.assert_allclose([line['learning_rate'] for line in logged[7:]], [2e-4, 2e-5, 2e-5], rtol=1e-5)
    whole = list(tiny_dataset().train_batches(16, 3, 0))
    np.testing.assert_array_equal(dataset.batches, [batch['image'] for batch in whole[3:]])

    number, state = final_state(tiny_config(**changed), tmp_path)
    assert number == last == state.step
    moments, schedule = state.opt_state
    assert moments.count == schedule.count == last
    for told in (
        'batch_size was 8 when this run was last saved, and is 16 from here on',
        'learning_rate was 0.001 when this run was last saved, and is 0.002 from here on',
        'mesh was () when this run was last saved, and is (1, 2) from here on',
        'gpu_ids was (0,) when this run was last saved, and is (0, 1) from here on',
        'an epoch had 4 steps and has 2 from here on; 1.50 epochs are done',
    ):
        assert told in caplog.text
    caplog.clear()
    with caplog.at_level('INFO', 'sreml_jax'):
        train(tiny_config(**changed), tmp_path, tiny_dataset(), NoSignals())
    assert 'is trained to the end (step 10)' in caplog.text
