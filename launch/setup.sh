#!/usr/bin/env bash
# Makes .venv if there is none and installs what the project needs; "setup.sh test" adds the test tools.
set -euo pipefail
cd "$(dirname "$0")/.."

jax=jax
extras=${1:-}
command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1 && jax='jax[cuda13]'
if [ "$jax" != jax ] && nvidia-smi --query-gpu=compute_cap --format=csv,noheader | grep -x '9\.0' >/dev/null; then
  extras=${extras:+$extras,}hopper # H100, H200: with the kernels written for them
fi
wanted=.venv/installed-$(cat requirements.txt pyproject.toml launch/setup.sh | cksum | cut -d' ' -f1)-$jax-${extras:-run}
[ -e "$wanted" ] && exit 0

python=
for candidate in python3 python3.13 python3.12 python3.11; do
  if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || { echo "error: no Python 3.11 to 3.13 found; install one" >&2; exit 2; }

[ -x .venv/bin/python ] || "$python" -m venv .venv
echo "installing into .venv ($("$python" --version))"
.venv/bin/pip install --quiet --disable-pip-version-check --upgrade-strategy only-if-needed "$jax" --editable ".${extras:+[$extras]}"
touch "$wanted"
