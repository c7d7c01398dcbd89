#!/usr/bin/env bash
# One training as N processes on this machine: the same code path as on a cluster.
#
#   bash launch/local.sh N [OPTIONS] -- train --config=fer2013_small --workdir runs/small
#
#   --devices M    fake CPU devices of each process (1)    --gpus   one GPU each instead, of $CUDA_VISIBLE_DEVICES
#   --restarts R   after a crash, the whole job again, at most R times (default 3); it resumes
#   --chaos        kills one process, once, after the first new checkpoint, to show that the job survives it
#   --dry-run      prints the commands and runs nothing
#
# Process 0 writes here, the others to WORKDIR.logs/process-I.log. SIGTERM and Ctrl-C go to all: they save and exit with
# 75 or 130; a second one kills them. 76 (it hung) and codes from 128 are crashes; after others nothing starts again.
# Needs bash 5.1, setpriv (util-linux), and expressnet: in $EXPRESSNET, on the PATH, or in .venv-* of this repository.
# Run here: 2 processes of 2 CPU devices, with --chaos. Not yet run: --gpus.
set -euo pipefail -m # -m: each process leads a group of its own, so that Ctrl-C comes to this script alone

say() { printf 'local.sh: %s\n' "$1" >&2; }
fail() { say "$1 (see --help)" && exit 2; }
whole() { if [[ ! $2 =~ ^[0-9]{1,4}$ ]]; then fail "$1 must be a whole number, not '$2'"; fi; }

processes=0 devices=1 restarts=3 gpus='' chaos='' dry='' workdir='' asked='' pids=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in
    -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
    --gpus) gpus=yes ;;
    --chaos) chaos=yes ;;
    --dry-run) dry=yes ;;
    --devices) whole "$1" "${2-}" && devices=$((10#$2)) && shift ;;
    --restarts) whole "$1" "${2-}" && restarts=$((10#$2)) && shift ;;
    *) whole "the number of processes" "$1" && processes=$((10#$1)) ;;
    esac
    shift
done
if [ $# -lt 2 ]; then fail "the arguments of expressnet come after --"; fi
if ((processes < 1 || devices < 1)); then fail "there must be at least one process and one device"; fi
IFS=, read -ra visible <<<"${CUDA_VISIBLE_DEVICES-$(seq -s, 0 $((processes - 1)))}"
if [ -n "$gpus" ] && ((${#visible[@]} < processes)); then fail "CUDA_VISIBLE_DEVICES has only ${#visible[@]}"; fi
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 501)); then fail "bash 5.1 is needed, this is $BASH_VERSION"; fi
arguments=("${@:2}" --distributed)
for ((i = 0; i < $# - 1; i++)); do
    case ${arguments[i]} in --workdir) workdir=${arguments[i + 1]} ;; --workdir=*) workdir=${arguments[i]#*=} ;; esac
done
if [ -z "$workdir" ]; then fail "no --workdir: only train and evaluate run as several processes"; fi
workdir=$(realpath -m -- "${workdir/#\~\//$HOME/}")
venvs=("$(dirname "${BASH_SOURCE[0]}")"/../.venv-*/bin/expressnet)
program=${EXPRESSNET:-$(command -v expressnet || echo "${venvs[-1]}")}
command -v "$program" >/dev/null || fail "no $program: activate its environment, or set EXPRESSNET=/path/to/expressnet"

command_of() { # command_of I PORT: sets `command` to what process I runs
    command=(env JAX_COORDINATOR_ADDRESS="127.0.0.1:$2" JAX_NUM_PROCESSES="$processes" JAX_PROCESS_ID="$1")
    if [ -n "$gpus" ]; then
        # Without this JAX falls back to the CPU where CUDA does not start.
        command+=("JAX_PLATFORMS=cuda,cpu" CUDA_VISIBLE_DEVICES="${visible[$1]}")
    else
        command+=(JAX_PLATFORMS=cpu XLA_FLAGS="${XLA_FLAGS+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices")
        # Read back from the cache, a CPU program has lost the order of its collectives.
        if ((processes * devices > 1)); then command+=(JAX_ENABLE_COMPILATION_CACHE=false); fi
    fi
    command+=(setpriv --pdeathsig TERM "$program" "${arguments[@]}") # stopped too if this script is killed
}

start() { # all processes, at a free port below the range of ephemeral ports
    local i port log
    while port=$((20000 + RANDOM % 12000)) && (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    for ((i = 0; i < processes; i++)); do
        command_of "$i" "$port"
        log=$workdir.logs/process-$i.log
        if [ -n "$dry" ]; then
            printf '%q ' "${command[@]}"
            if ((i > 0)); then printf '>>%q 2>&1 ' "$log"; fi
            echo '&'
            continue
        fi
        if ((i == 0)); then "${command[@]}" </dev/null & else "${command[@]}" </dev/null >>"$log" 2>&1 & fi
        pids[i]=$!
    done
}

running() { for pid in "${pids[@]}"; do if kill -0 "$pid"; then return; fi; done 2>/dev/null && false; }
ask() { for pid in "${pids[@]}"; do kill -TERM "$pid" || true; done 2>/dev/null; }
end() { # end SECONDS: waits so long for all to end, then kills them, and whatever they have started
    local tenths
    for ((tenths = 10 * $1; tenths > 0; tenths--)); do if running; then sleep 0.1; fi; done 2>/dev/null
    for pid in "${pids[@]}"; do kill -KILL -- "-$pid" || true; done 2>/dev/null
}

crashed() { # where a process has died too, for whose sake another one ended: that one is what happened
    local i died
    for i in "${!pids[@]}"; do
        if [ "$i" != "$first" ] && ! kill -0 "${pids[i]}" 2>/dev/null; then
            died=0
            wait "${pids[i]}" 2>/dev/null || died=$?
            if ((died > 128 || died == 76)); then code=$died first=$i && return; fi
        fi
    done
}

follow() { # until all have ended; sets `code` to 0 or the exit code of the first that failed, `first` to its number
    local ended left=("${pids[@]}")
    for ((code = 0; ${#left[@]} > 0; )); do
        wait -f -n -p ended "${left[@]}" 2>/dev/null || code=$?
        if [ -z "${ended-}" ] && running; then
            code=0 # that was a signal to this script
            continue
        fi
        for first in "${!pids[@]}"; do if [ "${pids[first]}" = "${ended-}" ]; then break; fi; done
        case $code in
        0) unset "left[$first]" ;;
        75 | 130) crashed && end 60 && return ;; # the others are stopping too
        *) ask && end 10 && return ;;
        esac
    done
}

newest() { (cd "$workdir/checkpoints" && ls) 2>/dev/null | grep -x '[0-9]*' | sort -n | tail -n 1 || true; }
strike() { # strike BEFORE: once there is another newest checkpoint, SIGKILL to any one process
    while sleep 0.1 && [ "$(newest)" = "$1" ]; do :; done
    say "--chaos: there is checkpoint $(newest); killing process $((first = RANDOM % processes))"
    kill -KILL "${pids[first]}"
}

if [ -n "$dry" ]; then start && exit; fi
if [ -n "$gpus" ] && [ ! -e /dev/nvidiactl ] && [ ! -e /dev/dxg ]; then fail "there is no NVIDIA GPU here"; fi
mkdir -p "$workdir.logs"
# A signal to this script is for all processes.
trap 'if [ -n "$asked" ]; then end 0; fi; asked=75 && ask' TERM HUP
trap 'if [ -n "$asked" ]; then end 0; fi; asked=130 && ask' INT
trap 'pids+=(${watch-}) && end 0' EXIT
for ((attempt = 1; ; attempt++)); do
    start
    if [ -n "$chaos" ]; then strike "$(newest)" & watch=$! chaos=''; fi
    if [ -n "$asked" ]; then ask; fi
    follow
    if ((code == 0)); then break; fi
    say "process $first ended with exit code $code"
    if ((first > 0 && code != 75)); then tail -n 20 "$workdir.logs/process-$first.log" >&2; fi
    if ((code < 128 && code != 76 || attempt > restarts)) || [ -n "$asked" ]; then break; fi
    say "starting the job again ($attempt of $restarts)"
done
if [ -n "$asked" ] && ((code >= 75)); then code=$asked; fi
exit "$code"
