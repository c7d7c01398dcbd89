"""A training step compiled for GPUs that are not here, by JAX's CUDA plugin, against the layers and the prediction.

The plugin lies in the folder that PLAN_CUDA names, as launch/test.sh installs it.
"""

import json
import os
from pathlib import Path

import pytest

from tests.conftest import TINY, separate
from tests.multidevice.test_plan import WIDE, by_hand

PLUGIN = os.environ.get("PLAN_CUDA", "")


@pytest.fixture(scope="module")
def for_gpus():
    """The small program of `test_plan`, for two H100s."""
    if not Path(PLUGIN, "jax_plugins").is_dir():
        pytest.skip("PLAN_CUDA names no folder with jax-cuda12-plugin, jax-cuda12-pjrt and nvidia-cuda-nvcc-cu12")
    wide = [f"--config.{key}={value}" for key, value in WIDE.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", PLUGIN)
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "false")
        done = separate("plan", f"--config={TINY}", "--gpus", "h100:2", "--json", *wide)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_gpus_that_are_not_here_are_compiled_for(for_gpus):
    found, said = for_gpus
    own, memory = found["memory"]["compiler"], found["memory"]
    assert found["kind"] == "compiled, not run" and found["config"]["batch_per_device"] == 128
    assert memory["total"] == own["argument"] + own["output"] - own["alias"] + own["temp"] + own["code"]
    assert (
        memory["total"] == sum(memory["parts"].values())
        and memory["fits"]
        and memory["capacity"] == int(0.95 * 81559 * 2**20)
    )
    assert 0 < found["bound"]["step_ms"]["overlapped"] <= found["bound"]["step_ms"]["not_overlapped"]
    assert said.splitlines()[0].startswith("predicted: ")  # and no word of a driver before it
    assert "cuDNN's algorithms" in said and "cuda drivers" not in said and "Traceback" not in said


def test_its_arithmetic_is_that_of_the_layers(for_gpus):
    found, _ = for_gpus
    assert found["arithmetic"]["flops_per_image"] == pytest.approx(by_hand(), rel=0.01)
    assert found["predicted"]["arithmetic"]["flops_per_image"] == pytest.approx(by_hand(), rel=0.01)


def test_its_collectives_are_those_predicted(for_gpus):
    found, _ = for_gpus
    compiled, predicted = (sum(row["bytes"] for row in rows) for rows in (
        found["collectives"], found["predicted"]["collectives"]))  # fmt: skip
    assert {row["axis"] for row in found["collectives"]} == {"data"}
    assert compiled == pytest.approx(predicted, rel=0.01)


def test_its_memory_and_traffic_are_about_those_predicted(for_gpus):
    found, _ = for_gpus
    assert found["memory"]["total"] == pytest.approx(sum(found["predicted"]["memory"].values()), rel=0.3)
    assert found["arithmetic"]["bytes_per_step"] == pytest.approx(
        found["predicted"]["arithmetic"]["bytes_per_step"], rel=0.5
    )
