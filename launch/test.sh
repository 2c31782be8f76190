#!/usr/bin/env bash
# The linter, the formatter's check, the types, the import contract and all tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
launch/setup.sh test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports --no-cache
# Compiling takes most of the time and one core: two tests at once. Each process begins with half of the tests in
# their order, which share fixtures, and takes over some of the other's when it is done: none waits at the end.
exec .venv/bin/python -m pytest --numprocesses 2 --dist worksteal "$@"
