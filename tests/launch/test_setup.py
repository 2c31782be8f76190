"""launch/setup.sh beside stubs of pip and nvidia-smi: what it installs on which machine."""

import os
import shutil
import subprocess

import pytest
from support.paths import ROOT

NO_GPU = '#!/bin/sh\nexit 9\n'
GPU = '#!/bin/sh\n[ "$1" = -L ] && echo "GPU 0" && exit\n[ "$1" = --query-gpu=compute_cap ] && echo {}\n'


@pytest.mark.parametrize(
    ('nvidia_smi', 'arguments', 'installed'),
    [
        (NO_GPU, [], 'jax --editable .'),
        (NO_GPU, ['test'], 'jax --editable .[test]'),
        (GPU.format('8.0'), ['test'], 'jax[cuda13] --editable .[test]'),
        (GPU.format('9.0'), [], 'jax[cuda13] --editable .[hopper]'),
        (GPU.format('9.0'), ['test'], 'jax[cuda13] --editable .[test,hopper]'),
    ],
)
def test_a_gpu_gets_cuda_and_a_hopper_its_kernels(tmp_path, nvidia_smi, arguments, installed):
    (tmp_path / 'launch').mkdir()
    shutil.copy(ROOT / 'launch/setup.sh', tmp_path / 'launch')
    for name in ('requirements.txt', 'pyproject.toml'):
        (tmp_path / name).touch()
    asked = tmp_path / 'asked'
    stubs = {
        '.venv/bin/python': '#!/bin/sh\necho Python 3.12\n',
        '.venv/bin/pip': f'#!/bin/sh\necho "$@" >> {asked}\n',
        'bin/nvidia-smi': nvidia_smi,
    }
    for name, text in stubs.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}'}
    for _ in range(2):  # the second finds everything installed
        subprocess.run(['bash', tmp_path / 'launch/setup.sh', *arguments], check=True, env=environment)
    (line,) = asked.read_text().splitlines()
    assert line.endswith(f'only-if-needed {installed}')
