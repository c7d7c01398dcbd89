#!/usr/bin/env bash
# With jax 0.10, the newest for Python 3.11, one of two cores waits while a CPU computes a convolution of 64 channels.
#
# Versions: jax and jaxlib 0.10.2 (Python 3.11) and 0.11.2 (Python 3.12), numpy 2.4.6, Linux x86-64, two cores.
# Belief: a convolution over a large batch of pictures keeps all cores busy; wider layers cost more time.
# Behaviour: the times look as if 0.10.2 never shared out the pixels of all pictures between threads, but the output
# channels, in blocks of about 64 (of 128 where the kernel is small); why was not looked at. With 64 outputs one core
# works and the other waits, with 96 one and a half, with 128 both: twice the channels in the same time. A batch that
# is cut into 16 parts, each a convolution of its own, has parts running side by side (the last line). With 0.11.2
# both cores work on all of them: the same convolutions take half of the time, and 0.11 does not install where Python
# is 3.11.
#
# Output seen:
#   jax 0.10.2, 128 pictures of 12 x 12, kernels of 3 x 3
#   128 -> 64: 1.0 cores, 27 ms
#   128 -> 96: 1.5 cores, 27 ms
#   128 -> 128: 1.9 cores, 28 ms
#   64 -> 64: 1.0 cores, 13 ms
#   64 -> 128: 1.0 cores, 26 ms
#   64 -> 256: 1.9 cores, 28 ms
#   64 -> 128 in 16 parts: 1.6 cores, 17 ms
#   jax 0.11.2, 128 pictures of 12 x 12, kernels of 3 x 3
#   128 -> 64: 2.0 cores, 14 ms
#   128 -> 96: 2.0 cores, 21 ms
#   128 -> 128: 1.9 cores, 28 ms
#   64 -> 64: 2.0 cores, 7 ms
#   64 -> 128: 2.0 cores, 14 ms
#   64 -> 256: 2.0 cores, 28 ms
#   64 -> 128 in 16 parts: 1.9 cores, 16 ms
set -euo pipefail
python=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
jax=0.10.2
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' && jax=0.11.2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "jax==$jax" "jaxlib==$jax" numpy==2.4.6 2>/dev/null

cat >"$folder/cores.py" <<'PYTHON'
import os
import sys
import time

os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # before the threads are made

import jax
import jax.numpy as jnp
import numpy as np


def conv(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def in_parts(x, kernel):
    return jnp.concatenate([conv(part, kernel) for part in jnp.split(x, 16)])


def cores(function, inputs, outputs):
    """Processor time over time."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.random((128, 12, 12, inputs)), jnp.float32)
    kernel = jnp.asarray(rng.random((3, 3, inputs, outputs)), jnp.float32)
    run = jax.jit(function)
    run(x, kernel).block_until_ready()
    began, busy = time.perf_counter(), time.process_time()
    for _ in range(30):
        run(x, kernel).block_until_ready()
    took = time.perf_counter() - began
    return (time.process_time() - busy) / took, took / 30 * 1e3


print(f"jax {jax.__version__}, 128 pictures of 12 x 12, kernels of 3 x 3")
found = {}
for function, inputs, outputs in ((conv, 128, 64), (conv, 128, 96), (conv, 128, 128), (conv, 64, 64), (conv, 64, 128),
                                  (conv, 64, 256), (in_parts, 64, 128)):
    found[function, inputs, outputs], took = cores(function, inputs, outputs)
    how = " in 16 parts" * (function is in_parts)
    print(f"{inputs} -> {outputs}{how}: {found[function, inputs, outputs]:.1f} cores, {took:.0f} ms")
narrow = [found[conv, 128, 64], found[conv, 64, 64], found[conv, 64, 128]]
wide = [found[conv, 128, 128], found[conv, 64, 256]]
if jax.__version__.startswith("0.10."):
    as_seen = max(narrow) < 1.25 and found[in_parts, 64, 128] > 1.25
else:
    as_seen = min(narrow) > 1.6
sys.exit(not (as_seen and min(wide) > 1.6))
PYTHON
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/cores.py"
