#!/usr/bin/env bash
# Trains a small ensemble on drawn characters, prints its Recall@K and says where the picture is.
set -euo pipefail
cd "$(dirname "$0")/.."
launch/setup.sh
[ -n "${GLIBC_TUNABLES:-}" ] || { set -a; . launch/malloc.env; set +a; }
exec .venv/bin/python -m sreml_jax.main --config=configs/glyphs.py --workdir=runs/glyphs "$@"
