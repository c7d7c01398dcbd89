"""The network against an independent float64 build of it, through canonical names, weights made by a rule."""

import json
import os
import subprocess
import sys

import pytest


def errors(dtype: str, x64: str) -> dict[str, float]:
    run = subprocess.run(
        [sys.executable, "-m", "tests.golden.worst_errors", dtype],
        # Without a thread pool: with it, jax 0.11 was seen to hang in a Fourier transform (docs/benchmarks.md).
        env={
            **os.environ,
            "JAX_ENABLE_X64": x64,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def float64():
    return errors("float64", "1")


@pytest.fixture(scope="module")
def float32():
    return errors("float32", "0")


def test_float64_inference_training_gradients_and_statistics(float64):
    assert len(float64) == 9 + 4 + 6  # taps; loss, logits, gradient norms and projections; moving statistics
    wrong = {name: error for name, error in float64.items() if not error < 1e-9}
    assert not wrong


def test_float32_taps_and_loss(float32):
    compared = {name: error for name, error in float32.items() if name.startswith("eval/") or name == "train/loss"}
    assert len(compared) == 10
    wrong = {name: error for name, error in compared.items() if not error < 1e-5}
    assert not wrong
