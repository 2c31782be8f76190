"""README.md: its commands are run here on small inputs, or the program takes them and others run them."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image
from support import forked
from support.paths import ROOT
from support.runs import SMALL, folder_of

from sreml_jax.cli.flags import MODES
from sreml_jax.configs import default

README = (ROOT / 'README.md').read_text()
PROGRAM = 'python -m sreml_jax.main'
# What starts another program than ours, and who runs that.
ELSEWHERE = {
    'launch/demo.sh': 'its dataset: test_glyphs.py; its run: by hand',
    'launch/setup.sh': 'launch/test.sh',
    'launch/test.sh': 'CI',
    'pip install': 'launch/setup.sh',
    'python launch/table.py': 'here and test_table.py',
    'GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python launch/bench.py': 'by hand: figures take minutes',
    'python launch/bench.py': 'by hand: figures take minutes',
    'python launch/readme_pictures.py': 'test_browser.py',
    '.venv/bin/python -m ruff': 'launch/test.sh',
}


class Block(NamedTuple):
    """A fenced block: its language ('' is the shell) and its text."""

    language: str
    text: str


BLOCKS = [Block(*found) for found in re.findall(r'^```(\w*)\n(.*?)^```$', README, re.M | re.S)]
INLINE = [' '.join(code.split()) for code in re.findall(r'(?<!`)`([^`]+)`(?!`)', README)]


def commands() -> list[str]:
    """All commands: the lines of shell blocks, and what begins like one within a sentence or a table."""
    lines = [line for block in BLOCKS if not block.language for line in block.text.splitlines()]
    begins = (*ELSEWHERE, PROGRAM, 'sbatch', 'sreml ', 'GLIBC_TUNABLES=')
    lines += [code for code in INLINE if code.startswith(begins)]
    lines = [re.sub(r'\s+# .*', '', line).strip() for line in lines]
    return list(dict.fromkeys(line for line in lines if line))


def arguments(command: str) -> list[str] | None:
    """What a command tells the program, or None where it starts another one; '...' is left out."""
    words = [word for word in shlex.split(command) if word != '...']
    while words and re.match(r'[A-Z_]+=', words[0]):
        del words[0]
    for start in (['python', '-m', 'sreml_jax.main'], ['sreml'], ['sbatch', 'launch/slurm.sbatch']):
        if words[: len(start)] == start:
            return words[len(start) :]
    return None


@pytest.fixture(scope='module')
def place(tmp_path_factory) -> Path:
    """A folder where the files are that the README speaks of."""
    folder = tmp_path_factory.mktemp('readme')
    folder_of(folder / 'DIR')
    (folder / 'PHOTOS').mkdir()
    for i in range(3):
        Image.new('RGB', (20, 16), (90 * i, 40, 200)).save(folder / 'PHOTOS' / f'{i}.png')
    Image.new('RGB', (30, 20), (95, 40, 190)).save(folder / 'photo.jpg')
    return folder


def test_every_command_is_one_that_we_know():
    unknown = [c for c in commands() if arguments(c) is None and not c.startswith(tuple(ELSEWHERE))]
    assert not unknown
    assert len(commands()) > 20


def test_the_program_takes_every_command(place):
    told = [c for c in commands() if arguments(c) is not None]
    jobs = [{'argv': arguments(c), 'check': True} for c in told]
    refused = {c: error for c, (code, _, error) in zip(told, forked.run(place, jobs), strict=True) if code}
    assert not refused


def test_own_photographs_from_training_to_the_exported_file(place):
    text = README[README.index('## Use my own photographs') : README.index('## Measured')]
    jobs = []
    for language, block in re.findall(r'^```(\w*)\n(.*?)^```$', text, re.M | re.S):
        if language:
            jobs.append({'code': block})
            continue
        for line in block.strip().splitlines():
            if (argv := arguments(re.sub(r'\s+# .*', '', line))) is None:
                continue
            if '--mode=embed' in argv:
                argv.append('--vectors')
            if '--config=configs/folder.py' in argv:
                argv += [*SMALL, '--config.prepared_dir=prepared']
            checked = any(f'--mode={mode}' in argv for mode in ('report', 'serve'))  # others run these
            jobs.append({'argv': argv, 'check': checked})
    done = forked.run(place, jobs)
    assert [code for code, *_ in done] == [0] * len(jobs), [error for code, _, error in done if code]
    assert len(jobs) >= 7


def test_the_table_plans_what_the_readme_says(place):
    for command in (c for c in commands() if c.startswith('python launch/table.py')):
        words = [word for word in command.split()[2:] if word != '--print']
        if '--dry-run' not in words:
            words.append('--dry-run')
        done = subprocess.run(
            [sys.executable, str(ROOT / 'launch' / 'table.py'), *words],
            cwd=place,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == (
            1 if '--slurm' in words else 2 if '--crops=cropped' in words else 24
        )


def test_every_flag_field_file_and_extra_is_there():
    seed = {'data_name', 'crop_type', 'recalls', 'model_type', 'batch_size', 'num_epochs', 'ensemble_size'}
    seed |= {'meta_class_size', 'gpu_ids'}
    flags = set(re.findall(r'--([a-z_-]+)', ' '.join(INLINE + [b.text for b in BLOCKS])))
    program = {'mode', 'config', 'workdir', 'help', 'coordinator', 'processes', 'process'}
    program |= {flag for mode in MODES.values() for flag in (*mode.needs, *mode.takes)}
    launch = ''.join(path.read_text() for path in (ROOT / 'launch').glob('*.py'))
    missing = [f for f in flags - program - seed if f"'--{f}'" not in launch and f'--{f}' not in launch]
    assert not missing

    fields = set(re.findall(r'config\.([a-z_]+)', README)) - {'py', 'sreml_jax'}
    assert fields <= set(default.get_config()) | {'FIELD'}

    # Names of files: relative to the checkout, or to sreml_jax/.
    names = [n for n in re.findall(r'\b[\w/]+\.(?:py|sh|sbatch|png|toml|md)\b', README) if '/' in n]
    missing = [n for n in names if not any((ROOT / part / n).exists() for part in ('', 'sreml_jax'))]
    assert not missing

    extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
    assert set(re.findall(r"'?\.\[(\w+)\]", README)) <= set(extras)


def test_every_link_within_the_readme_leads_somewhere():
    titles = {
        re.sub(r'[^\w -]', '', t.lower()).replace(' ', '-') for t in re.findall(r'^#+ (.*)', README, re.M)
    }
    links = re.findall(r'\]\(([^)]+)\)', README)
    assert links
    for link in links:
        assert link[1:] in titles if link.startswith('#') else (ROOT / link).exists(), link


def test_the_seed_s_figures_are_those_of_the_table(tmp_path):
    command = [sys.executable, str(ROOT / 'launch' / 'table.py'), '--print', f'--folder={tmp_path / "none"}']
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    for part in told.split('### Recall of ')[1:]:
        backbone, first = part.split()[0], re.search(r'^\| R@1 +(\|.*)$', part, re.M)[1]
        cells = ' | '.join(cell.strip() for cell in first.strip('|').split('|'))
        assert f'| {backbone} | {cells} |' in README
