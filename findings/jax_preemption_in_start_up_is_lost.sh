#!/usr/bin/env bash
# SIGTERM to a resumed job of several processes is lost where it comes before the first training step: JAX settles on
# step 1, which is long past, and no process ever stops.
#
# Versions: jax and jaxlib 0.11.2, numpy 2.4.6 (Python 3.12), Linux x86-64, CPU, two processes.
# Belief: jax.experimental.multihost_utils.reached_preemption_sync_point(step), asked before each step by every process,
# as its documentation and Orbax have it, gives True at a step soon after one of the processes has received SIGTERM,
# whenever that was.
# Behaviour: the step to stop at is one more than the largest that any process has asked for so far. Before the first
# question that is 0, so the job settles on step 1, and only a question for just that step is answered with True. A run that
# resumes at step 1000 never asks for it, trains on until it is killed, and loses what it did since its last checkpoint.
# Start-up is long in such jobs (data, restoring). Counting the questions, from 1 in each start, and asking with that
# number instead of the step, stops in every case.
#
# Output seen:
#   jax 0.11.2, SIGTERM before the first question, from 1: both stop at 1
#   jax 0.11.2, SIGTERM before the first question, from 1000: neither stops in 40 questions
#   jax 0.11.2, SIGTERM after the first question, from 1000: both stop at 1001
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.11.2 jaxlib==0.11.2 numpy==2.4.6 2>/dev/null

cat >"$folder/job.py" <<'PYTHON'
import os
import signal
import sys
import time

import jax
from jax.experimental import multihost_utils

port, number, when, first = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)
asked = range(first, first + 40)
stopped = None
for step in asked:
    if step == (asked[0] if when == "before" else asked[1]):
        multihost_utils.sync_global_devices("both are here")
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(3)  # in which all are told of it
    if multihost_utils.reached_preemption_sync_point(step):
        stopped = step
        break
    time.sleep(0.05)
told = multihost_utils.process_allgather(jax.numpy.array(stopped or 0)).tolist()
if number == 0:
    what = f"both stop at {told[0]}" if told[0] == told[1] > 0 else f"neither stops in {len(asked)} questions"
    assert told[0] == told[1], told
    print(f"jax {jax.__version__}, SIGTERM {when} the first question, from {first}: {what}")
PYTHON
export JAX_PLATFORMS=cpu
for how in "before 1" "before 1000" "after 1000"; do
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    # shellcheck disable=SC2086
    "$folder/venv/bin/python" "$folder/job.py" "$port" 1 $how >"$folder/err" 2>&1 &
    # shellcheck disable=SC2086
    "$folder/venv/bin/python" "$folder/job.py" "$port" 0 $how 2>/dev/null | grep "^jax" | tee -a "$folder/out"
    wait $! || { cat "$folder/err" && exit 1; }
done
diff "$folder/out" <(sed -n 's/^#   jax/jax/p' "$0") || { echo "the behaviour has changed" && exit 1; }
