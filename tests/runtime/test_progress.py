"""What a terminal of 80 columns shows of the progress."""

import io
import re
import sys
import time

from sreml_jax.runtime import progress
from sreml_jax.training.epochs import Epochs
from sreml_jax.training.writer import Progress


class Terminal(io.StringIO):
    """A terminal that keeps what was written."""

    def isatty(self):
        return True

    def lines(self):
        return [line.strip() for line in re.split(r'[\r\n]', self.getvalue()) if line.strip()]


def terminal_of_80_columns(monkeypatch):
    """Stands for stderr from here on."""
    monkeypatch.setattr(sys, 'stderr', Terminal())
    monkeypatch.setattr(progress.tqdm, '__init__', narrow(progress.tqdm.__init__))
    return sys.stderr


def narrow(init):
    def made(self, *args, **options):
        init(self, *args, **options | {'dynamic_ncols': False, 'ncols': 80, 'mininterval': 0})

    return made


def test_the_numbers_survive_where_the_bar_has_no_room(monkeypatch):
    terminal = terminal_of_80_columns(monkeypatch)
    shown = Progress(Epochs(number=20, steps=5000), first_step=0, batch_size=12)
    shown.say('XLA compiles the training step')
    shown.note('R@1 76.1%')
    for step in (50_000, 50_001):
        shown.show(step, {'loss': 2.4849, 'accuracy': 0.0832})
        time.sleep(0.02)
    shown.close()
    compiling, *_, last = terminal.lines()
    assert compiling == 'XLA compiles the training step'
    numbers = r'epoch 11/20 50% [\d.]+ images/s [\d:]+ left loss 2.485 accuracy 0.083 R@1 76.1%'
    assert re.match(numbers, last), last
    assert max(map(len, terminal.lines())) <= 80


def test_the_rate_does_not_count_compilation(monkeypatch):
    terminal = terminal_of_80_columns(monkeypatch)
    shown = progress.ImageProgress(1000)
    shown.say('compiling')
    time.sleep(1.0)  # for XLA
    shown.show(10, 'epoch 1/1', '')
    time.sleep(0.05)
    shown.show(20, 'epoch 1/1', '')
    rate = float(re.search(r'([\d.]+) images/s', terminal.lines()[-1])[1])
    shown.close()
    assert rate > 20  # counted from the start it would be below 20
