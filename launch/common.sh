# shellcheck shell=bash
# For quickstart.sh and test.sh: announces stages, finds Python, makes the environment. Source it from the repository
# root, after `set -euo pipefail`.

# stage TEXT: says how long the stage before took, and announces this one.
stage() {
    finish_stage
    printf '\n==> %s\n' "$1"
    stage_began=$SECONDS
}

finish_stage() {
    if [ -n "${stage_began:-}" ]; then
        printf '    done in %d:%02d\n' $(((SECONDS - stage_began) / 60)) $(((SECONDS - stage_began) % 60))
    fi
    stage_began=
}

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# from_pyenv python3.12: the newest such Python that pyenv has installed, also where the shell's shim does not run it.
from_pyenv() {
    command -v pyenv >/dev/null || return 1
    local wanted=${1##*/} version
    wanted=${wanted#python}
    version=$(pyenv versions --bare | grep -E "^${wanted//./\\.}(\.[0-9]+)*$" | sort -V | tail -n 1) || return 1
    printf '%s/bin/python\n' "$(pyenv prefix "$version")"
}

# find_python: sets `python` to $PYTHON if that is set, or else to the first Python >= 3.11 there is.
find_python() {
    local name names=(python3 python3.12 python3.11 python3.13 python)
    if [ -n "${PYTHON:-}" ]; then names=("$PYTHON"); fi
    for name in "${names[@]}"; do
        python=$name
        is_recent "$python" && return
        python=$(from_pyenv "$name") && is_recent "$python" && return
    done
    fail "no Python 3.11 or newer found (tried: ${names[*]}); install one, or name it: PYTHON=/path/to/python bash $0"
}

# make_environment [EXTRA]: sets `venv` to an environment in .venv-<version> that holds this project and its
# dependencies at the versions of launch/constraints.txt. Installs only if something has changed since last time.
make_environment() {
    local extra=${1:-} version stamp sum log
    find_python
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    venv=$PWD/.venv-$version
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        echo "    making .venv-$version with $("$python" --version)"
        "$python" -m venv --clear "$venv" || fail "cannot make $venv; does this Python have its venv module?"
    fi
    stamp=$venv/installed${extra:+-$extra}
    sum=$({ echo "$PWD"; cat pyproject.toml launch/constraints.txt; } | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$sum" ]; then
        echo "    $("$venv/bin/python" --version) in .venv-$version, nothing to install"
        return
    fi
    echo "    installing into .venv-$version (a few minutes the first time)"
    log=$venv/install.log
    if ! "$venv/bin/python" -m pip install --disable-pip-version-check -c launch/constraints.txt \
        -e ".${extra:+[$extra]}" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "the installation failed; all of its output is in $log"
    fi
    echo "$sum" >"$stamp"
}
