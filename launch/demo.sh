#!/usr/bin/env bash
# Trains a small ensemble on drawn characters, prints its Recall@K and shows where the picture is.
set -euo pipefail
cd "$(dirname "$0")/.."
launch/setup.sh
# Large arrays in large pages: about a tenth faster on a CPU (glibc 2.35 or later; others ignore it).
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
exec .venv/bin/python -m sreml_jax.main --config=configs/glyphs.py --workdir=runs/glyphs "$@"
