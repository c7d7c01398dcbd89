"""Plans without a compiler: names of machines, bounds by hand, memory from shapes, searches, and what is refused."""

import json
import types

import jax
import pytest

from expressnet_jax.config import ConfigError
from expressnet_jax.config import files as config_files
from expressnet_jax.plan import describe, machines, search
from expressnet_jax.plan import step_cost as plan
from tests.conftest import TINY, expressnet

GB = 1e9


def load(**settings):
    return config_files.load(TINY, [(key.replace("__", "."), str(value)) for key, value in settings.items()])


def test_machines_by_name():
    pod = machines.topology("v5e:16x16", 2)
    assert (pod.chips, pod.slices, pod.platform, pod.chip.memory) == (512, 2, "tpu", 16 << 30)
    assert machines.topology("v5p:2x2x4").chips == 16
    gpus = machines.gpus("h100:64")
    assert (gpus.chips, gpus.slices, gpus.platform) == (64, 8, "gpu")
    assert machines.gpus("a100:4").slices == 1


@pytest.mark.parametrize(
    ("kind", "name"),
    [("TPU v5 lite", "v5e"), ("TPU v5", "v5p"), ("TPU v5p", "v5p"), ("TPU v6 lite", "v6e"), ("TPU v4", "v4"),
     ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200"), ("NVIDIA A100-SXM4-80GB", "a100"), ("cpu", None),
     ("TPU v5e", "v5e"), ("TPU v6e", "v6e"), ("TPU v4 lite", None),
     ("NVIDIA H100 PCIe", None), ("NVIDIA H100 NVL", None), ("NVIDIA A100-SXM4-40GB", None)],  # with peaks of their own
)  # fmt: skip
def test_chips_by_the_name_that_jax_gives_them(kind, name):
    chip = machines.chip_of(kind)
    assert (chip.name if chip else None) == name


@pytest.mark.parametrize(
    ("backend", "kind", "name"),
    [("gpu", "NVIDIA H200", "h200:8"), ("tpu", "TPU v5 lite", "v5e:8"), ("cpu", "cpu", "cpus:8"), ("gpu", "T4", None)],
)
def test_this_processes_own_devices_are_a_machine(backend, kind, name, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "devices", lambda: 8 * [types.SimpleNamespace(device_kind=kind)])
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    if name:
        assert machines.here().name == name and machines.here().chips == 8
    else:
        with pytest.raises(ConfigError, match="nothing is known of a T4; known: TPU v4"):
            machines.here()


@pytest.mark.parametrize("wrong", ["v9:2x2", "v5e", "v5e:4", "v5e:0x4", "h100:8", "v5e:4x4x4x4"])
def test_an_unknown_topology_is_refused_with_the_known_ones(wrong):
    with pytest.raises(ConfigError, match="topology"):
        machines.topology(wrong)


@pytest.mark.parametrize("wrong", ["b300:8", "h100", "h100:0", "h100:12", "v5e:4x4"])
def test_unknown_gpus_are_refused(wrong):
    with pytest.raises(ConfigError, match="gpus"):
        machines.gpus(wrong)


def test_the_bound_by_hand():
    chip = machines.gpus("h100:8").chip
    rows = [{"kind": "all-reduce", "axis": "data", "devices": 8, "bytes": 4.5 * GB},
            {"kind": "all-gather", "axis": "expert", "devices": 2, "bytes": 0.9 * GB}]  # fmt: skip
    # Links of 450 GB/s: 2 x 7/8 x 4.5 GB and 1/2 x 0.9 GB.
    sent = machines.communication(chip, rows, slices=1)
    assert sent == pytest.approx(0.0175 + 0.001)
    # Two hosts: four chips inside, then a quarter of it over 50 GB/s between the two; the experts stay inside.
    across = machines.communication(chip, rows, slices=2)
    assert across == pytest.approx(2 * 3 / 4 * 4.5 / 450 + 2 / 2 * 4.5 / 4 / 50 + 0.001)
    bound = machines.bound(100, compute=0.010, memory=0.004, sent=sent)
    assert bound["step_ms"] == pytest.approx({"overlapped": 18.5, "not_overlapped": 28.5})
    assert bound["images_per_second"]["overlapped"] == pytest.approx(100 / 0.0185)
    assert bound["limit"] == "communication"


def test_products_that_ask_for_more_than_bfloat16_take_longer():
    tpu, gpu = machines.topology("v5e:2x2").chip, machines.gpus("h100:8").chip
    work = {"bfloat16": 197e12, "high": 197e12, "highest": 197e12, "float32": 197e12}
    assert machines.arithmetic(tpu, work) == pytest.approx(1 + 3 + 6 + 1)
    assert machines.arithmetic(tpu, {"bfloat16": 1.0}, 2 * 197e12) == pytest.approx(2)
    assert machines.arithmetic(gpu, {"float32": 494e12, "highest": 67e12, "bfloat16": 989e12}) == pytest.approx(3)


def test_scaling_counts_chips_by_powers_of_two_and_their_slices():
    assert machines.powers(24, 8) == [(1, 1), (2, 1), (4, 1), (8, 1), (16, 2), (24, 3)]


def test_memory_falls_with_the_devices_that_share_the_experts_and_the_optimizer():
    machine = machines.cpus(8)
    whole = plan.predicted(load(), machine, 8, 1)["memory"]
    experts = plan.predicted(load(mesh__expert=4), machine, 2, 4)["memory"]
    split = plan.predicted(load(mesh__shard_optimizer=True), machine, 8, 1)["memory"]
    # Two layers of four experts, 16 x 16 and a bias each, in float32: three quarters lie elsewhere.
    assert whole["parameters"] - experts["parameters"] == 2 * 4 * (16 * 16 + 16) * 4 * 3 // 4
    assert split["parameters"] == whole["parameters"] and split["batch"] == whole["batch"]
    # A count and both moments of Adam; each of its parts is a copy of the parameters.
    assert whole["optimizer"] == pytest.approx(2 * whole["parameters"], rel=1e-3)
    assert whole["optimizer"] / 8 <= split["optimizer"] < whole["optimizer"] / 5
    assert whole["batch"] == 2 * (32 * 32 * 3 + 4 + 1 + 4)


def test_a_router_that_never_learns_sends_what_another_does():
    """Its own parameters are no parameters to the optimizer, so nothing may be read from there."""
    settings = {"mesh__expert": 2, "moe__implementation": "all_gather"}
    frozen, learnt = (
        {row["what"]: row["bytes"] for row in plan.predicted(config, machines.cpus(4), 2, 2)["collectives"]}
        for config in (load(moe__router="random", **settings), load(**settings))
    )
    assert frozen["pictures to experts"] == learnt["pictures to experts"] > 0
    assert frozen["gradients"] == learnt["gradients"] - 2 * (16 * 4 + 4) * 4  # of two routers


def test_the_largest_batch_of_gpus_is_where_the_memory_ends():
    config, machine = load(), machines.gpus("h100:8")
    found = search.largest_batch(config, machine, None, print)
    assert found["total"] <= found["capacity"] == int(0.95 * 81559 * 2**20) and "model alone" in found["confirmed"]
    more = search.with_batch(config, (found["batch_per_device"] + 1) * 8)
    total = sum(plan.predicted(more, machine, 8, 1)["memory"].values())
    assert total > found["capacity"]
    assert "with XLA_PYTHON_CLIENT_MEM_FRACTION=0.95" in describe.search(found)


@pytest.mark.parametrize("limit", [7, 8, 100, 1000, 1023])
@pytest.mark.parametrize("bent", [False, True])
def test_the_search_finds_the_last_batch_that_fits(limit, bent):
    """Also where memory is no straight line: it then needs more attempts, and ends on one that fits."""
    tried = []

    def needed(b):
        tried.append(b)
        size = 100 + 10 * b + (b * b // 50 if bent else 0)
        return size if b <= limit else None

    most = 100 + 10 * limit + (limit * limit // 50 if bent else 0)
    best = search._search(needed, 1, 16, lambda: most)
    assert best in tried and best <= limit
    assert len(tried) <= 12 and best >= (limit if not bent else 0.7 * limit)


def test_a_batch_in_parts_moves_no_less_and_is_no_faster():
    machine = machines.gpus("h100:8")
    whole, parts = (plan.make(load(batch_size=256, optimizer__accumulate=n), machine, None) for n in (1, 4))
    assert parts["arithmetic"]["bytes_per_step"] >= whole["arithmetic"]["bytes_per_step"]
    assert parts["bound"]["memory_ms"] >= whole["bound"]["memory_ms"]
    kept = [one["memory"]["parts"]["activations kept for gradients"] for one in (whole, parts)]
    assert kept[1] < 0.3 * kept[0]  # which is what parts are for


def test_a_host_that_is_used_in_part_is_reached_by_the_network_too():
    made = plan.make(load(mesh__data=12, batch_size=48), machines.gpus("h100:16"), None)
    assert made["scaling"][-1]["slices"] == 2
    assert made["bound"]["communication_ms"] == pytest.approx(made["scaling"][-1]["communication_ms"])


def test_splits_are_those_that_divide_experts_and_host_and_the_best_has_a_reason():
    found = search.splits(load(moe__num_experts=12, batch_size=48), machines.gpus("h100:16"))
    assert [row["expert"] for row in found["rows"]] == [1, 2, 4]
    assert found["best"] in found["rows"] and found["why"]
    assert found["best"]["step_ms"]["not_overlapped"] == min(row["step_ms"]["not_overlapped"] for row in found["rows"])


def test_gpus_are_predicted_drawn_and_never_called_measured(tmp_path):
    picture = tmp_path / "scaling.png"
    done = expressnet("plan", f"--config={TINY}", "--gpus", "a100:16", "--json", "--splits", "--search",
                      "--plot", picture, "--config.batch_size=32")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kind"] == "predicted, neither compiled nor run" and found["compile_seconds"] is None
    assert [row["chips"] for row in found["scaling"]] == [1, 2, 4, 8, 16]
    assert found["scaling"][0]["efficiency"] == {"overlapped": 1.0, "not_overlapped": 1.0}
    assert found["search"]["batch_per_device"] > 2 and found["splits"]["rows"]
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000
    assert "not measured" in done.stderr and "fits" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "one of the arguments --topology --gpus --cpus --here --sweep is required"),
        (["--gpus", "h100:8", "--cpus", "2"], "argument --cpus: not allowed with argument --gpus"),
        (["--cpus", "3"], "batch_size=16 is not divisible by 3 devices"),
        (["--cpus", "2", "--search"], "--search needs the memory of a chip"),
        (["--gpus", "h100:8", "--fast"], "--fast goes with --topology and --sweep, not with --gpus"),
        (["--here", "--splits"], "--splits compares predictions"),
        (["--gpus", "h100:8", "--slices", "2"], "--slices goes with"),
        (["--cpus", "2", "--plot", "x.png"], "--plot goes with"),
        (["--gpus", "h100:8", "--plot", "no/such/folder/x.png"], "there is no folder"),
        (["--sweep", "v5e:2x2", "--splits"], "go with one machine"),
        (["--sweep", ""], "--sweep '' lacks a topology"),
        (["--sweep", "v5e:2x2,,v5e:4x4"], "lacks a topology"),
        (["--gpus", "h100:8", "--plot", "."], "--plot . is a folder"),
        (["--topology", "v5e:2x2", "--slices", "0"], "must be at least 1"),
        (["--sweep", "v5e:2x2,v9:2x2"], "v9:2x2"),  # before anything is compiled
    ],
)
def test_a_wrong_call_is_one_line(arguments, said):
    done = expressnet("plan", f"--config={TINY}", *arguments)
    assert done.returncode == (1 if "folder" in said else 2)  # which was looked for
    assert said in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
