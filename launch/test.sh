#!/usr/bin/env bash
# Checks the project: lint, types, tests. Needs Python 3.11 or newer; everything else is installed here.
#
#   bash launch/test.sh                     everything
#   bash launch/test.sh -k golden           these arguments go to pytest
#   bash launch/test.sh --long              also what is worth hours: every form of the paper's network in float64; and
#                                           launch/slurm.sbatch on a Slurm of its own (root, apt-get install slurm-wlm)
#   PYTHON=python3.12 bash launch/test.sh   with another Python
#   JAX_DISABLE_MOST_OPTIMIZATIONS=false bash launch/test.sh    all programs compiled as users' are: twice the time
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/common.sh

export JAX_PLATFORMS=cpu # the tests make their own devices
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/expressnet_jax/xla}
mkdir -p "$JAX_COMPILATION_CACHE_DIR"

stage "environment"
make_environment test

# JAX's compiler for GPUs is not installed among the rest: every process with JAX would say that there is no driver.
export PLAN_CUDA=$venv/plan-cuda
versions=$(grep cuda launch/constraints.txt)
if [ "$(cat "$PLAN_CUDA/versions" 2>/dev/null)" != "$versions" ]; then
    echo "    installing JAX's compiler for GPUs into $PLAN_CUDA"
    rm -rf "$PLAN_CUDA"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$PLAN_CUDA" \
        -c launch/constraints.txt jax-cuda12-plugin jax-cuda12-pjrt nvidia-cuda-nvcc-cu12 ||
        fail "the installation of JAX's compiler for GPUs failed"
    echo "$versions" >"$PLAN_CUDA/versions"
fi

failed=()
# check NAME MODULE ARGUMENTS...: one stage; failures are reported at the end, so that one run shows them all.
check() {
    stage "$1 ($2)"
    "$venv/bin/python" -m "${@:2}" || failed+=("$1")
}

check "lint" ruff check .
check "format" ruff format --check --quiet .
check "types" mypy expressnet_jax data_pipelines
# Two files at a time, the long ones first: most of a test here is one core compiling. "-n 0" runs one at a time.
check "tests" pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10 --durations-min=1 "$@"

if [ ${#failed[@]} -gt 0 ]; then
    fail "not passed: ${failed[*]}"
fi
