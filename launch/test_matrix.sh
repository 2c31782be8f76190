#!/usr/bin/env bash
# All tests on other instruction sets and other versions of jax, with code as users run it: LLVM optimizes, which
# it does not in launch/test.sh. By hand or nightly, for it takes hours.
#     launch/test_matrix.sh                         everything
#     launch/test_matrix.sh tests/retrieval -x      arguments go to pytest
#     MATRIX='AVX2 jax-0.12' launch/test_matrix.sh  some rows
# One line a row at the end; exit code 1 if a row failed. A row that this machine cannot run is skipped, with the reason.
set -uo pipefail
cd "$(dirname "$0")/.."
rows=${MATRIX:-SSE4_2 AVX2 AVX512 as-it-is jax-0.10 jax-0.11 jax-0.12}
launch/setup.sh test || exit
unset JAX_COMPILATION_CACHE_DIR  # each row compiles its own programs

# Prints a Python with this version of jax, in a folder of its own; the bounds of requirements.txt do not count here.
python_with() {
  local folder=build/matrix/$1
  for python in python3.13 python3.12 python3.11 python3; do
    command -v "$python" >/dev/null || continue
    if [ ! -e "$folder/installed" ]; then
      "$python" -m venv --clear "$folder" && "$folder/bin/pip" install --quiet --editable '.[test]' >&2 &&
        "$folder/bin/pip" install --quiet "jax==${1#jax-}.*" >&2 && touch "$folder/installed" || continue
    fi
    echo "$folder/bin/python"
    return
  done
  return 1
}

report=() failed=0
for row in $rows; do
  python=.venv/bin/python flags="${XLA_FLAGS:-} --xla_backend_optimization_level=3"
  case $row in
    jax-*)
      if ! python=$(python_with "$row"); then
        report+=("$row: skipped, no Python here can install it")
        continue
      fi
      ;;
    as-it-is) ;;
    *) flags="$flags --xla_cpu_max_isa=$row" ;;
  esac
  echo "== $row"
  if XLA_FLAGS=$flags "$python" -m pytest --numprocesses 2 "$@"; then
    report+=("$row: passed")
  else
    report+=("$row: FAILED")
    failed=1
  fi
done
printf '%s\n' "${report[@]}"
exit "$failed"
