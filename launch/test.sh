#!/usr/bin/env bash
# Checks the project: lint, types, tests. Needs Python 3.11 or newer and nothing else that is not installed here.
#
#   bash launch/test.sh                     everything
#   bash launch/test.sh -k golden           arguments go to pytest
#   PYTHON=python3.12 bash launch/test.sh   with another Python
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/common.sh

export JAX_PLATFORMS=cpu # the tests make their own devices
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/expressnet_jax/xla}
mkdir -p "$JAX_COMPILATION_CACHE_DIR"

stage "environment"
make_environment test
run=("$venv/bin/python" -m)

stage "lint (ruff check)"
"${run[@]}" ruff check .

stage "format (ruff format --check)"
"${run[@]}" ruff format --check --quiet . || fail "the files above are formatted otherwise; run: ruff format ."

stage "types (mypy)"
"${run[@]}" mypy expressnet_jax data_pipelines

stage "tests (pytest)"
"${run[@]}" pytest --durations=15 --durations-min=1 "$@"
