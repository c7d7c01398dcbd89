"""The network against an independent float64 build of it, through canonical names, weights made by a rule, with every
form of convolution."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import TINY

# With jax 0.11 on a CPU, Fourier transforms that run at once can wait for their own thread pool (openxla/xla#46347).
_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


def run(module: str, dtype: str, form: str, *arguments: object):
    """The JSON that a module of this folder prints, in a process of its own, compiled as users' programs are."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.golden.{module}", dtype, form, *map(str, arguments)],
        env={
            **os.environ,
            "JAX_ENABLE_X64": str(int(dtype == "float64")),
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "false",
            "XLA_FLAGS": _ONE_THREAD if "fft" in form else "",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


#: Layer by layer tests/unit/test_large_conv.py has all three agree, in float64 with their gradients.
LONG = [pytest.param(form, marks=pytest.mark.long) for form in ("direct", "fft")]


@pytest.mark.parametrize("form", ["dft", *LONG])
def test_float64_inference_training_gradients_and_statistics(form):
    found = run("worst_errors", "float64", form)
    assert len(found) == 9 + 4 + 6  # taps; loss, logits, gradient norms and projections; moving statistics
    wrong = {name: error for name, error in found.items() if not error < 1e-9}
    assert not wrong


@pytest.mark.parametrize("form", ["auto", *LONG])
def test_float32_taps_and_loss(form):
    found = run("worst_errors", "float32", form)
    assert len(found) == 9 + 1
    wrong = {name: error for name, error in found.items() if not error < 1e-5}
    assert not wrong


@pytest.mark.parametrize("forms", ["direct,dft", pytest.param("direct,dft,fft", marks=pytest.mark.long)])
def test_fifty_steps_of_training_give_the_same_losses_with_every_form(data_dir, forms):
    """In float64, with dropout: in float32 any two ways of rounding part after some steps. Augmentation is float32, and
    is compiled together with the form, so two forms would not see quite the same pictures: it is off."""
    off = ("flip=False", "crop=0", "shift=0", "rotate=0", "brightness=0", "erase=0", "mixup=0")
    changes = [TINY, "--config.model.cnnfe1.kernels=15,9", "--config.model.cnnfe2.kernels=11,3"]
    changes += [*(f"--config.augment.{change}" for change in off), data_dir]
    direct, *others = run("curves", "float64", forms, 50, *changes)
    assert len(direct) == 50 and np.mean(direct[-10:]) < np.mean(direct[:10])
    for losses in others:
        np.testing.assert_allclose(losses, direct, atol=1e-6)
