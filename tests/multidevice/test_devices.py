"""The same run on 1 and on 8 devices, the latter in another process, since the device count is fixed at start."""

import json

import numpy as np
import pytest

from expressnet_jax.moe.router import LOSSES
from tests.conftest import TINY, expressnet, on_eight

RUN = ["--config.total=5steps", "--config.log_every=1steps", "--config.batch_size=32", "--config.moe.noise_std=0.1",
       *(f"--config.moe.{name}=0.1" for name in LOSSES)]  # fmt: skip


def losses(folder, data_dir, *mesh, devices):
    done = expressnet("train", f"--config={TINY}", "--workdir", folder, "--data_dir", data_dir, *RUN, *mesh,
                      devices=devices)  # fmt: skip
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    train = [[r["loss"], r["auxiliary_loss"], *r["moe_cnn/load"]] for r in records if r["kind"] == "train"]
    return train, [r for r in records if r["kind"] == "validation"]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, data_dir):
    return losses(tmp_path_factory.mktemp("one") / "run", data_dir, devices=1)


@pytest.mark.parametrize("expert", [1, 4])
def test_five_steps_on_eight_devices_equal_those_on_one(one_device, tmp_path, data_dir, expert):
    """With noise and all auxiliary losses, which are of the whole batch wherever its parts lie."""
    found, validation = losses(tmp_path / "run", data_dir, f"--config.mesh.expert={expert}", devices=8)
    assert len(found) == 5
    np.testing.assert_allclose(found, one_device[0], rtol=1e-5)
    for key in ("accuracy", "macro_f1"):
        assert validation[0][key] == pytest.approx(one_device[1][0][key], abs=1e-9)
    assert validation[0]["loss"] == pytest.approx(one_device[1][0]["loss"], rel=1e-5)


def test_five_steps_with_batchnorm_in_groups_equal_those_on_one(tmp_path, data_dir):
    one, eight = (losses(tmp_path / str(n), data_dir, "--config.model.batchnorm_group=4", devices=n) for n in (1, 8))
    assert len(eight[0]) == 5
    np.testing.assert_allclose(eight[0], one[0], rtol=1e-5)
    assert eight[1][0]["loss"] == pytest.approx(one[1][0]["loss"], rel=1e-5)


def test_batchnorm_in_groups_is_right_on_every_layout_and_sends_no_statistics_between_layers():
    """Where each group lies on one device nothing waits for another, forward or backward.

    In the step of the whole network the gradients, and with them the moving statistics, are then all that is summed
    over devices; before them only the router's choice (top_k) gathers its probabilities.
    """
    done = on_eight("tests.multidevice.batchnorm_groups")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["devices"] == 8 and len(found["layer"]) == 15
    for row in found["layer"]:
        assert row["error"] < 1e-5, row
        alone = (row["batch"], row["group"]) in ((32, 4), (32, 2))
        assert (row["awaited"] == 0) == alone, row
    assert found["chain"]["4"] <= 2 and found["chain"]["0"] > 10
    assert len(found["losses"]["1"]) == 3 and len({*found["losses"]["1"]}) == 3
    np.testing.assert_allclose(found["losses"]["8"], found["losses"]["1"], rtol=1e-12)


def test_a_batch_that_does_not_divide_is_refused_with_both_numbers(tmp_path, data_dir):
    done = expressnet("train", f"--config={TINY}", "--workdir", tmp_path / "run", "--data_dir", data_dir,
                      "--config.batch_size=12", devices=8)  # fmt: skip
    assert done.returncode == 2
    assert "batch_size=12" in done.stderr and "8 devices" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_mesh_larger_than_the_machine_is_refused(tmp_path, data_dir):
    done = expressnet("train", f"--config={TINY}", "--workdir", tmp_path / "run", "--data_dir", data_dir,
                      "--config.mesh.data=4", "--config.mesh.expert=4", devices=8)  # fmt: skip
    assert done.returncode == 2 and "needs 16 devices, not 8" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("limit", "form"), [(1 << 30, "dft"), (20_000, "dft"), (1 << 30, "fft")])
def test_a_transformed_convolution_moves_no_picture_between_devices(limit, form):
    """Only the kernel's gradient is summed over devices, not its spectrum's, and by each on its own pictures."""
    done = on_eight("tests.multidevice.sharded_conv", limit, form)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["devices"] == 8 and found["moved"] == 0 and found["reduced"] == 9 * 9 * 5 * 6
    assert found["error"] < 1e-5
