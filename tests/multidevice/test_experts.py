"""Every movement of images to experts against the dense form on one device, in processes of 8 and of 2 x 4 devices."""

import json
import shutil
import socket
import subprocess
import sys

import pytest

from expressnet_jax.moe.selfcheck import MOVEMENTS, TOLERANCES
from tests.conftest import TINY, environment, expressnet, on_eight


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.multidevice.experts", *map(str, arguments)],
        env=environment(4), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process):
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err[-3000:]
    return out


def within_tolerance(found):
    for case, sizes in found["worst"].items():
        values, gradients = TOLERANCES[case.split("/")[1]]
        assert sizes["forward"] <= values, (case, sizes)
        assert max(sizes["inputs"], sizes["router"], sizes["experts"]) <= gradients, (case, sizes)


def test_every_movement_equals_dense_on_every_mesh():
    done = on_eight("tests.multidevice.experts", 5)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["devices"] == 8 and found["processes"] == 1
    assert set(found["worst"]) == {f"{name}/{dtype}" for name in MOVEMENTS for dtype in TOLERANCES}
    within_tolerance(found)
    assert set(found["of_other_images"]) == set(MOVEMENTS) and max(found["of_other_images"].values()) <= 1e-6


# Two cases bring every movement to some mesh, four every movement to every mesh, as the test above does in one process.
@pytest.mark.parametrize("cases", [2, pytest.param(4, marks=pytest.mark.long)])
def test_two_processes_of_four_devices_agree_too(cases):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = [start(cases, address, 2, number) for number in range(2)]
    first, _ = [finished(process) for process in processes]
    found = json.loads(first.splitlines()[-1])  # gloo speaks first
    assert found["devices"] == 8 and found["processes"] == 2
    assert set(found["worst"]) == {f"{name}/float32" for name in MOVEMENTS}
    within_tolerance(found)


def test_the_selfcheck_passes_on_this_mesh_and_says_so():
    done = expressnet("inspect", f"--config={TINY}", "--selfcheck", "--json", "--config.mesh.expert=4", devices=8)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["mesh"] == {"data": 2, "expert": 4} and len(found["movements"]) == 8
    assert "all_to_all" in done.stderr and "OFF" not in done.stderr


@pytest.mark.parametrize("mesh", ["--config.mesh.expert=8", "--config.mesh.expert=3"])
def test_devices_that_do_not_divide_the_experts_are_refused(mesh):
    done = expressnet("inspect", f"--config={TINY}", "--selfcheck", mesh, devices=8)
    assert done.returncode == 2 and "moe.num_experts=4 is not divisible by mesh.expert=" in done.stderr
    assert "Traceback" not in done.stderr


FOUR = ["--config.total=4steps", "--config.save_every=2steps", "--config.eval_every=4steps",
        "--config.log_every=1steps", "--config.moe.capacity_factor=4"]  # fmt: skip


def losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [record["loss"] for record in lines if record["kind"] == "train"]


@pytest.fixture(scope="module")
def dense_run(tmp_path_factory, data_dir):
    """Four steps on one device; the checkpoint of the second is the last that is left."""
    workdir = tmp_path_factory.mktemp("dense") / "run"
    done = expressnet("train", f"--config={TINY}", "--data_dir", data_dir, "--workdir", workdir, *FOUR)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(workdir / "checkpoints" / "4")
    return workdir


@pytest.mark.parametrize("implementation", ["all_to_all", "dropless"])
def test_a_dense_checkpoint_goes_on_with_experts_spread_over_devices(dense_run, tmp_path, data_dir, implementation):
    """Two steps on one device, two more on 2 x 4: the losses of four steps on one."""
    workdir = tmp_path / "run"
    shutil.copytree(dense_run, workdir)
    spread = [f"--config.moe.implementation={implementation}", "--config.mesh.expert=4"]
    again = expressnet("train", f"--config={TINY}", "--data_dir", data_dir, "--workdir", workdir, *FOUR, *spread,
                       devices=8)  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "going on from step 2" in again.stderr and f"experts: {implementation}" in again.stderr
    assert losses(workdir) == pytest.approx(losses(dense_run), rel=1e-5)


def test_the_memory_of_experts_falls_with_the_devices_that_share_them():
    """Parameters, both moments of Adam and the average: by the compiled programs' own account."""
    done = on_eight("tests.multidevice.expert_memory")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    whole = found["arguments"]["1"]
    saved = whole - found["arguments"]["8"]
    assert saved == pytest.approx(found["experts"] * (1 - 1 / 8), rel=0.01)
    assert found["experts"] > 0.4 * whole
