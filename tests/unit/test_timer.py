"""The benchmarks' timer: runs that do not count, spreads, memory."""

import json

import jax
import jax.numpy as jnp
import pytest

from expressnet_jax.bench import network, timer
from expressnet_jax.models import large_conv
from tests.conftest import TINY, expressnet


def test_the_first_runs_do_not_count():
    count = 0

    def run():
        nonlocal count
        count += 1
        return jnp.zeros(1)

    times = timer.milliseconds(run, 3)
    assert count == timer.WARM_UP + 3 and len(times) == 3 and min(times) > 0


def test_a_spread_is_a_median_between_the_smallest_and_the_largest():
    assert timer.spread([4.0, 1.0, 2.00049]) == {"median": 2.0, "min": 1.0, "max": 4.0}
    assert timer.spread([1.26, 3.0], 1) == {"median": 2.1, "min": 1.3, "max": 3.0}


def test_a_program_says_how_long_it_took_to_compile_and_what_memory_it_needs():
    x = jnp.ones((256, 256))
    program, seconds = timer.compiled(jax.jit(lambda x: x @ x), x)
    assert seconds > 0 and float(program(x)[0, 0]) == pytest.approx(256)
    assert timer.peak_memory(program) >= 2 * 256 * 256 * 4


def test_what_was_measured_until_ctrl_c_is_kept(monkeypatch, capsys):
    def measured(case):
        if case == 2:
            raise KeyboardInterrupt
        return case

    assert network._until_interrupted("cases", [0, 1, 2, 3], measured) == [0, 1]
    with pytest.raises(KeyboardInterrupt):
        network._until_interrupted("cases", [2, 3], measured)
    row = {"layer": "l", "side": 8, "kernel": [3, 3, 1, 4]}
    row |= {form: {f"{what}_ms": {"median": 1.0} for what in ("inference", "training")} for form in large_conv.FORMS}
    found = {"batch_size": 4, "device": "cpu", "layers": [row], "of": 2}
    monkeypatch.setattr(network, "conv", lambda *_, **__: found)
    assert "l 3x3 1->4 8" in " ".join(expressnet("bench", "conv", f"--config={TINY}").stdout.split())
    done = expressnet("bench", "conv", f"--config={TINY}", "--json")
    assert done.returncode == 130 and json.loads(done.stdout) == found
    assert "interrupted after 1 of 2; what was measured until then is above" in done.stderr
