"""README.md and docs/: each command runs here on small inputs, or its program accepts it."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from support import forked
from support.paths import ROOT
from support.runs import SMALL, folder_of
from support.weights import save_resnet18

from sreml_jax.cli.flags import MODES
from sreml_jax.configs import default

FILES = (ROOT / 'README.md', *sorted(ROOT.glob('docs/*.md')))
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in FILES}
TEXT = '\n'.join(PAGES.values())
# Commands of other programs than ours, and what runs those.
ELSEWHERE = {
    'launch/demo.sh': 'its dataset: test_glyphs.py; its run: by hand',
    'launch/setup.sh': 'launch/test.sh',
    'launch/test.sh': 'CI',
    'launch/test_matrix.sh': 'test_matrix.py',
    'SREML_FUZZ=': 'tests/fuzz, in short',
    'source .venv/bin/activate': 'the shell',
    'python3 -m venv gpu-venv': 'the shell',
    'source gpu-venv/bin/activate': 'the shell',
    'set -a; . launch/malloc.env; set +a': 'test_bench_command.py',
    'pip install': 'launch/setup.sh',
    '.venv/bin/pip install': 'CI',
    'python launch/table.py': 'here and test_table.py',
    'python launch/readme_pictures.py': 'test_browser.py',
    '.venv/bin/python -m ruff': 'launch/test.sh',
    'docker': 'test_package.py has what the container copies',
    'lint-imports': 'launch/test.sh',
}
# Benchmarks: their own parsers accept the flags here; the tests of launch/ run them on small cases.
BENCH = re.compile(r'python launch/bench( |/\w+\.py)')
PARSE = """
import argparse, sys
sys.argv = {argv!r}
sys.path[:0] = [{launch!r}, {bench!r}]
accept = argparse.ArgumentParser.parse_args
def parse_args(self, *given):
    accept(self, *given)
    sys.exit(0)
argparse.ArgumentParser.parse_args = parse_args
__import__('importlib').import_module({module!r}).main()
raise AssertionError('no flags were parsed')
"""


class Block(NamedTuple):
    """A fenced block: its language ('' is the shell) and its text."""

    language: str
    text: str


def blocks(text: str) -> list[Block]:
    return [Block(*found) for found in re.findall(r'^```(\w*)\n(.*?)^```$', text, re.M | re.S)]


def inline(text: str) -> list[str]:
    return [' '.join(code.split()) for code in re.findall(r'(?<!`)`([^`]+)`(?!`)', text)]


def lines(block: str) -> list[str]:
    """The commands of a shell block, without their comments."""
    commands = (re.sub(r'\s+# .*', '', line).strip() for line in block.splitlines())
    return [command for command in commands if command]


def commands() -> list[str]:
    """All commands: the lines of shell blocks, and code within a sentence or a table that begins like one."""
    found = [line for block in blocks(TEXT) if not block.language for line in lines(block.text)]
    begins = (*ELSEWHERE, 'python ', 'sbatch', 'sreml ')
    return list(dict.fromkeys([*found, *(code for code in inline(TEXT) if code.startswith(begins))]))


def arguments(command: str) -> list[str] | None:
    """The program's arguments in a command, without '...'; None if it starts another program."""
    words = [word for word in shlex.split(command.removeprefix('mpirun -n 4 ')) if word != '...']
    for start in (['python', '-m', 'sreml_jax.main'], ['sreml'], ['sbatch', 'launch/slurm.sbatch']):
        if words[: len(start)] == start:
            return words[len(start) :]
    return None


def benchmark(command: str) -> tuple[str, list[str]]:
    """A benchmark's module and its sys.argv."""
    words = shlex.split(command)[1:]
    if words[0] == 'launch/bench':
        return words[1], ['bench', *words[2:]]
    return Path(words[0]).stem, words


@pytest.fixture(scope='module')
def place(tmp_path_factory) -> Path:
    """A folder with the files that the pages speak of."""
    folder = tmp_path_factory.mktemp('pages')
    folder_of(folder / 'DIR')
    (folder / 'PHOTOS').mkdir()
    for i in range(3):
        Image.new('RGB', (20, 16), (90 * i, 40, 200)).save(folder / 'PHOTOS' / f'{i}.png')
    Image.new('RGB', (30, 20), (95, 40, 190)).save(folder / 'photo.jpg')
    for name in ('FILE', 'QUERIES', 'GALLERY'):  # embeddings of another program
        np.save(folder / f'{name}.npy', np.eye(4, 3) + 1)
        (folder / f'{name}.txt').write_text('a\na\nb\nb\n')
        (folder / f'{name}.csv').write_text('label\na\na\nb\nb\n')
    return folder


def refused(place: Path, jobs: dict[str, dict]) -> dict[str, str]:
    """Runs a job for each command; returns what the failing ones said."""
    done = forked.run(place, [*jobs.values()])
    return {command: error for command, (code, _, error) in zip(jobs, done, strict=True) if code}


def test_every_command_is_known():
    unknown = [
        c for c in commands()
        if arguments(c) is None and not BENCH.match(c) and not c.startswith(tuple(ELSEWHERE))
    ]  # fmt: skip
    assert not unknown
    assert len(commands()) > 40


def test_the_program_accepts_every_command(place):
    ours = {c: arguments(c) for c in commands()}
    jobs = {c: {'argv': argv, 'check': True} for c, argv in ours.items() if argv is not None}
    assert len(jobs) > 15
    assert not refused(place, jobs)


def test_the_benchmarks_accept_every_command(place):
    jobs, paths = {}, {'launch': str(ROOT / 'launch'), 'bench': str(ROOT / 'launch' / 'bench')}
    for command in filter(BENCH.match, commands()):
        module, argv = benchmark(command)
        jobs[command] = {'code': PARSE.format(argv=argv, module=module, **paths)}
    assert len(jobs) > 10
    assert not refused(place, jobs)


def test_own_photographs_from_training_to_the_exported_file(place):
    jobs = []
    for language, block in [*blocks(PAGES['docs/own_photographs.md']), python_block(PAGES['README.md'])]:
        if language:
            jobs.append({'code': block})
            continue
        for line in lines(block):
            if (argv := arguments(line)) is None:
                continue
            if '--mode=embed' in argv and '--workdir=runs/mine' in argv:
                argv.append('--vectors')
            elif '--mode=embed' in argv:  # without a run, by pretrained weights
                save_resnet18(place / 'weights.npz')
                argv += [
                    '--config.weights=weights.npz',
                    '--config.image_size=32',
                    '--config.compilation_cache=',
                ]
            if '--config=configs/folder.py' in argv:
                argv += [*SMALL, '--config.prepared_dir=prepared']
            # Other tests run these.
            parts = ('--mode=report', '--mode=serve', '--mode=publish', 'runs/watched')
            checked = any(part in argument for part in parts for argument in argv)
            jobs.append({'argv': argv, 'check': checked})
    done = forked.run(place, jobs)
    assert [code for code, *_ in done] == [0] * len(jobs), [error for code, _, error in done if code]
    assert len(jobs) >= 9


def python_block(text: str) -> Block:
    """The one block of Python of a page."""
    (block,) = (block for block in blocks(text) if block.language == 'python')
    return block


def test_the_table_plans_what_the_pages_say(place):
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
    code = [c for c in inline(TEXT) + [line for block in blocks(TEXT) for line in lines(block.text)]]
    flags = set(re.findall(r'--([a-z_-]+)', ' '.join(c for c in code if not c.startswith('docker'))))
    program = {'mode', 'config', 'workdir', 'help', 'coordinator', 'processes', 'process'}
    program |= {flag for mode in MODES.values() for flag in (*mode.needs, *mode.takes)}
    launch = ''.join(path.read_text() for path in (ROOT / 'launch').rglob('*.py'))
    missing = [f for f in flags - program - seed if f"'--{f}'" not in launch and f'--{f}' not in launch]
    assert not missing

    fields = set(re.findall(r'config\.([a-z_]+)', TEXT)) - {'py', 'sreml_jax'}
    assert fields <= set(default.get_config()) | {'FIELD'}

    # Names of files: relative to the checkout, or to sreml_jax/.
    names = [n for n in re.findall(r'\b[\w/]+\.(?:py|sh|sbatch|png|toml|md|env)\b', TEXT) if '/' in n]
    missing = [n for n in names if not any((ROOT / part / n).exists() for part in ('', 'sreml_jax'))]
    assert not missing

    extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
    named = ','.join(re.findall(r'\.\[([\w,]+)\]', TEXT)).split(',')
    assert set(named) <= set(extras)


def test_every_name_in_the_tree_of_the_developers_page_is_there():
    tree = re.findall(r'^    ( *)(\S+(?: +\S+\.py)*)(?:  |$)', PAGES['docs/develop.md'], re.M)
    folders, named = {0: ROOT}, set()
    for indent, names in tree:
        for name in names.split():
            path = folders[len(indent)] / name
            assert path.exists(), path
            folders[len(indent) + 2] = path
            named.add(path)
    packages = {path.parent for path in ROOT.glob('sreml_jax/*/__init__.py')} - {
        ROOT / 'sreml_jax' / 'configs'
    }
    assert packages and packages <= named


@pytest.mark.parametrize('page', PAGES)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r'\]\(([^)]+)\)', PAGES[page]):
        name, _, title = link.partition('#')
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        if title:
            titles = re.findall(r'^#+ (.*)', target.read_text(), re.M)
            assert title in {re.sub(r'[^\w -]', '', t.lower()).replace(' ', '-') for t in titles}, link


def test_the_readme_is_short_and_points_to_every_page():
    readme = PAGES['README.md']
    assert len(readme.splitlines()) <= 150
    assert all(f']({page})' in readme for page in PAGES if page != 'README.md')


def test_the_seeds_figures_are_those_of_the_table(tmp_path):
    command = [sys.executable, str(ROOT / 'launch' / 'table.py'), '--print', f'--folder={tmp_path / "none"}']
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    parts = printed.split('### Recall of ')[1:]
    assert len(parts) == 4
    for part in parts:
        backbone, first = part.split()[0], re.search(r'^\| R@1 +(\|.*)$', part, re.M)[1]
        cells = ' | '.join(cell.strip() for cell in first.strip('|').split('|'))
        assert f'| {backbone} | {cells} |' in PAGES['docs/benchmark_table.md']
