"""SIGINT and SIGTERM while the program compiles, prepares, trains and evaluates; and a second one."""

from support import forked

# What each job begins with: the signal comes this many seconds after `send`; no job takes 30.
BEGIN = """
import os, signal, threading, time
from pathlib import Path
import numpy as np
from support.tiny import tiny_config, tiny_dataset
from sreml_jax.runtime.signals import Signals

def send(number, *after):
    for seconds in after:
        threading.Timer(seconds, os.kill, (os.getpid(), number)).start()

def wait():
    time.sleep(30)
    os._exit(7)

threading.Timer(30, os._exit, (7,)).start()
signals = Signals()
"""
SECOND = """
import hashlib
with signals.held():
    send(signal.SIGTERM, 0.1, 0.6)
    hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000_000)  # C, without Python's lock: as compiling
"""
COMPILE = """
import jax, jax.numpy as jnp
def long(x):
    for i in range(1000):
        x = jnp.sin(x) * x[::-1] + i
    send(signal.SIGINT, 0.0)
    return x
jax.jit(long)(jnp.ones(9))
wait()
"""
PREPARE = """
from support import pictures
from sreml_jax import data
from sreml_jax.runtime import machine
pictures.write_classes(Path('data'), 2, 3)
def examples(decode, every):
    yield decode(every[0])
    send(signal.SIGTERM, 0.0)
    wait()
machine.in_threads = examples
data.load(tiny_config(data_name='folder', data_dir='data', prepared_dir='prepared'))
"""
TRAIN = """
from sreml_jax import train
made = train.step.make_train_step
def make(*args, **options):
    step, calls = made(*args, **options), []
    def signalled(*args):
        calls.append(1)
        if len(calls) == 2:
            send(signal.SIGTERM, 0.0)
        return step(*args)
    return signalled
train.step.make_train_step = make
train.train(tiny_config(num_epochs=10_000), Path('run'), tiny_dataset(), signals)
"""
COMPILE_STEP = """
import hashlib
from sreml_jax import train
def make(*args, **options):
    def step(*args):
        send(signal.SIGINT, 0.5)
        hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000_000)
    return step
train.step.make_train_step = make
train.train(tiny_config(), Path('begun'), tiny_dataset(), signals)
"""
IN_C = """
import hashlib
from sreml_jax.runtime import signals as module
module.GRACE = 0.5
send(signal.SIGTERM, 0.1)
hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000_000)
"""
AT_THE_END = """
def refuse(self):
    raise RuntimeError("can't create new thread at interpreter shutdown")
threading.Thread.start = refuse  # as Python 3.12 does
with signals.held():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.5)
signals.leave('saved')
"""
EVALUATE = """
from sreml_jax.embedder import Embedder
from support.checkpoints import untrained
dataset, config = tiny_dataset(), tiny_config()
untrained(Path('fresh'), config, dataset)
embedder = Embedder('fresh', config)
def images(*_):
    send(signal.SIGINT, 0.0)
    wait()
    yield
dataset.images = images
embedder.split(dataset, 'test')
"""


def test_each_signal_ends_the_program_by_its_code_and_a_sentence(tmp_path):
    jobs = [{'code': BEGIN + work} for work in (SECOND, COMPILE, PREPARE, TRAIN, EVALUATE)]
    jobs += [{'code': BEGIN + work} for work in (COMPILE_STEP, IN_C, AT_THE_END)]
    second, compiling, preparing, training, evaluating, at_once, in_c, ending = forked.run(tmp_path, jobs)
    assert second == [143, '', '']
    assert compiling == [130, '', 'stopped\n']
    assert preparing == [143, '', 'stopped\n']
    assert [p.name for p in (tmp_path / 'prepared').rglob('*') if p.is_file()] == ['lock']
    code, _, errors = training
    assert (code, errors.splitlines()[1]) == (143, 'finishing the step and saving; once more to exit at once')
    assert 'and saved; the same command goes on from there' in errors.splitlines()[-1]
    assert list((tmp_path / 'run' / 'checkpoints').iterdir())
    assert evaluating == [130, '', 'stopped\n']
    code, _, errors = at_once
    assert (code, errors.splitlines()[-1]) == (130, 'stopped')
    assert not list((tmp_path / 'begun').rglob('checkpoints/*'))
    assert in_c == [143, '', 'stopped\n']
    code, _, errors = ending
    assert (code, errors.splitlines()[2:]) == (130, ['saved'])
