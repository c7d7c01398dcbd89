"""The network against an independent float64 build of it, through canonical names, weights made by a rule, with every
form of convolution."""

import json
import os
import subprocess
import sys

import pytest

# With jax 0.11 on a CPU, Fourier transforms that run at once can wait for their own thread pool (openxla/xla#46347).
_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


def errors(dtype: str, x64: str, form: str) -> dict[str, float]:
    run = subprocess.run(
        [sys.executable, "-m", "tests.golden.worst_errors", dtype, form],
        env={
            **os.environ,
            "JAX_ENABLE_X64": x64,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": _ONE_THREAD if form == "fft" else "",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("form", ["direct", "fft", "dft"])
def test_float64_inference_training_gradients_and_statistics(form):
    found = errors("float64", "1", form)
    assert len(found) == 9 + 4 + 6  # taps; loss, logits, gradient norms and projections; moving statistics
    wrong = {name: error for name, error in found.items() if not error < 1e-9}
    assert not wrong


@pytest.mark.parametrize("form", ["direct", "fft", "auto"])
def test_float32_taps_and_loss(form):
    found = errors("float32", "0", form)
    compared = {name: error for name, error in found.items() if name.startswith("eval/") or name == "train/loss"}
    assert len(compared) == 10
    wrong = {name: error for name, error in compared.items() if not error < 1e-5}
    assert not wrong
