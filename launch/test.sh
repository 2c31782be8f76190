#!/usr/bin/env bash
# The linter, the formatter's check, the types, the import contract and all tests; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
launch/setup.sh test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/lint-imports --no-cache
# Compiling takes most of the time and one core: two tests at once.
exec .venv/bin/python -m pytest --numprocesses 2 "$@"
