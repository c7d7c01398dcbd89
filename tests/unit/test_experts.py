"""What a run records of its routers, and when it warns."""

import numpy as np
import pytest

from expressnet_jax.bench import network
from expressnet_jax.config import Clock
from expressnet_jax.config import files as config_files
from expressnet_jax.train import progress
from expressnet_jax.train.times import Times
from tests.conftest import TINY


def sums(load, dropped=0.0):
    load = np.asarray(load, np.float64)
    classes = np.stack([load, np.zeros_like(load)], 1)
    return {"count": load.sum() / 2, "moe/load": load, "moe/first": np.maximum(load - 20, 0),
            "moe/importance": load / 2, "moe/entropy": load.sum() / 4, "moe/dropped": dropped,
            "moe/classes": classes}  # fmt: skip


def test_statistics_are_fractions_of_the_interval():
    found = progress.routing(sums([60, 20, 20, 0], dropped=5))
    assert found["moe/load"] == [0.6, 0.2, 0.2, 0.0] and found["moe/max_load"] == 0.6 and found["moe/min_load"] == 0
    assert found["moe/dead"] == 3 and found["moe/dropped"] == 0.05 and found["moe/entropy"] == 0.5
    assert found["moe/importance"] == found["moe/load"] and found["moe/classes"][0] == [60, 0]


def lines_of(loads):
    """What is said beside each record of these loads."""
    said = progress.Progress(Clock(batch_size=16, examples=160, total_steps=400), 0, Times())
    figures = {
        "epoch": 1.0,
        "loss": 1.0,
        "accuracy": 0.5,
        "nonfinite_in_a_row": 0,
        "learning_rate": 0.1,
        "images_per_second": 9.0,
    }
    records = [{"step": 20 * i, **figures, **progress.routing(sums(load))} for i, load in enumerate(loads, 1)]
    return [said.lines(record)[1:] for record in records]


def test_lasting_starvation_is_said_once_a_run_with_the_shares_and_the_way_out():
    found = lines_of([[50, 48, 1, 1]] * 7 + [[50, 1, 48, 1]] * 7)
    (text,) = found[4]
    assert not any(found[:4]) and not any(found[5:])
    assert "\n" not in text and "expert 2 of moe 1.00 %, expert 3 of moe 1.00 %" in text and "25.00 %" in text
    assert "moe.balance_loss" in text and "step 100" in text


def test_an_expert_that_starves_now_and_then_is_not_warned_of():
    starved, fed = [50, 48, 1, 1], [50, 40, 5, 5]
    assert not any(lines_of(([starved] * 4 + [fed]) * 4))


def test_a_part_that_is_mostly_dead_is_said_once_with_the_way_out():
    said = progress.Progress(Clock(batch_size=16, examples=160, total_steps=400), 0, Times())
    assert said.warnings_of_parts({"cnnfe1": (128, 256), "fuse": (0, 256)}) == []
    (text,) = said.warnings_of_parts({"cnnfe1": (255, 256), "fuse": (0, 256)})
    assert "255 of 256 outputs of cnnfe1" in text and "model.dense_batchnorm=true" in text and "\n" not in text
    (text,) = said.warnings_of_parts({"cnnfe1": (256, 256), "fuse": (200, 256)})
    assert "200 of 256 outputs of fuse" in text


@pytest.mark.parametrize("load", [[25, 25, 25, 25], [70, 20, 6, 4]])
def test_uneven_is_not_yet_starving(load):
    record = {"step": 1, **progress.routing(sums(load))}
    assert progress.starving(record) == [] and not any(lines_of([load] * 9))


def test_the_benchmark_measures_every_movement_of_one_device(monkeypatch):
    for name, value in (("_EXPERTS", (4,)), ("_SELECTED", (2,)), ("_IMAGES", (16,))):
        monkeypatch.setattr(network, name, value)
    found = network.experts(config_files.load(TINY), repeats=2)
    assert [row["implementation"] for row in found["rows"]] == ["dense", "capacity", "dropless"]
    for row in found["rows"]:
        assert 0 < row["min_ms"] <= row["ms"] <= row["max_ms"] and row["bytes"] > row["expert_bytes"]
        assert row["expert_bytes"] == 4 * 4 * (16 * 16 + 16)  # float32, 4 experts of 16 to 16
    assert found["rows"][0]["dropped"] == found["rows"][2]["dropped"] == 0
    assert "dropless" in network.describe(found)


def test_the_benchmark_of_the_soft_router_says_that_it_selects_every_expert(monkeypatch):
    for name, value in (("_EXPERTS", (4,)), ("_IMAGES", (16,))):
        monkeypatch.setattr(network, name, value)
    config = config_files.load(TINY, [("moe.router", "soft"), ("moe.capacity_factor", "0.5")])
    rows = {row["implementation"]: row for row in network.experts(config, repeats=1)["rows"]}
    assert list(rows) == ["dense", "capacity", "dropless"]
    assert all(row["selected"] == row["experts"] == 4 for row in rows.values())
    assert rows["capacity"]["dropped"] == 0.5 and rows["dense"]["dropped"] == 0  # of 4 * 16 pairs, half have room
