#!/usr/bin/env bash
# On a CPU, too, JAX takes steps ahead of time, 32 of them: a training loop that looks for SIGTERM before every step
# ends 32 steps after the signal.
#
# Versions: jax and jaxlib 0.11.2, numpy 2.4.6 (Python 3.12), Linux x86-64, CPU.
# Belief: JAX's asynchronous dispatch is a matter of accelerators; on a CPU the loop keeps step with the computation, so
# one that asks for a signal before each step has its state ready to save one step later.
# Behaviour: a jitted step returns at once on a CPU as well, until 32 computations wait. The loop that hears the signal
# has 32 steps still to run before the state can be saved, and every batch of them is in memory. With steps of a second
# that is more than the 30 seconds that clusters leave by default. A loop that first waits for the step before the last
# (block_until_ready on any of its outputs that is not donated) has one, and the device is never idle.
#
# Output seen:
#   jax 0.11.2, cpu, as it is: SIGTERM was heard before step 40, and 32 steps had still to end
#   jax 0.11.2, cpu, waiting for the step before the last: SIGTERM was heard before step 40, and 1 steps had still to end
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.11.2 jaxlib==0.11.2 numpy==2.4.6 2>/dev/null

cat >"$folder/loop.py" <<'PYTHON'
import os
import signal
import sys

import jax
import jax.numpy as jnp

asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))


@jax.jit
def step(x):
    return jax.lax.fori_loop(0, 200, lambda _, y: y @ y / 256, x)


state = jax.block_until_ready(step(jnp.ones((256, 256))))
sent = []
for number in range(100):
    if number == 40:
        os.kill(os.getpid(), signal.SIGTERM)
    if sys.argv[1] != "as it is" and len(sent) > 1:
        jax.block_until_ready(sent[-2])
    if asked:
        break
    state = step(state)
    sent.append(state)
still = sum(not one.is_ready() for one in sent)
jax.block_until_ready(state)
where = f"jax {jax.__version__}, {jax.devices()[0].platform}, {sys.argv[1]}"
print(f"{where}: SIGTERM was heard before step {number}, and {still} steps had still to end")
PYTHON
export JAX_PLATFORMS=cpu
"$folder/venv/bin/python" "$folder/loop.py" "as it is" | tee "$folder/out"
"$folder/venv/bin/python" "$folder/loop.py" "waiting for the step before the last" | tee -a "$folder/out"
# One more may have ended since the last was sent.
awk '{ for (i = 1; i <= NF; i++) if ($i == "steps" && $(i + 1) == "had") still[NR] = $(i - 1) }
    END { exit !(still[1] >= 31 && still[2] <= 1) }' "$folder/out"
