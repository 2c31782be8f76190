"""What the program imports is what its installation brings."""

import ast
import re
import sys
import tomllib
from importlib import metadata

from support.paths import ROOT

extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
HOPPER = [line for line in extras['hopper'] if line != 'jax[cuda13]']  # which requirements.txt bounds


def imported() -> set[str]:
    """The top-level names of all modules that the program imports, but for Python's and its own."""
    names = set()
    for path in [*ROOT.glob('sreml_jax/**/*.py'), *ROOT.glob('configs/*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split('.')[0])
    return names - set(sys.stdlib_module_names) - {'sreml_jax', 'configs'}


def plain(name: str) -> str:
    return re.sub('[-_.]+', '-', name).lower()


def test_every_package_that_is_imported_is_required_with_bounds():
    lines = [line for line in (ROOT / 'requirements.txt').read_text().splitlines() if line[0] != '#']
    lines += extras['report'] + extras['serve'] + extras['ann'] + extras['heif'] + HOPPER
    assert not [line for line in lines if not re.search('>=.*,<', line)]
    required = {plain(re.match(r'[\w-]+', line)[0]) for line in lines}
    brought_by = metadata.packages_distributions()
    missing = {n for n in imported() if required.isdisjoint(map(plain, brought_by.get(n, [n])))}
    assert missing == {'torch'}  # whoever has weights in its format has it


def test_what_installs_without_the_extra_brings_the_same_triton():
    for place in ('launch/container/Dockerfile', 'docs/develop.md'):
        assert ' '.join(f"'{line}'" for line in HOPPER) in (ROOT / place).read_text()
