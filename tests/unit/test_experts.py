"""What a run records of its routers, and when it warns."""

import numpy as np
import pytest

from expressnet_jax.bench import network
from expressnet_jax.config import files as config_files
from expressnet_jax.train import progress
from tests.conftest import TINY


def sums(load, dropped=0.0):
    load = np.asarray(load, np.float64)
    classes = np.stack([load, np.zeros_like(load)], 1)
    return {"count": load.sum() / 2, "moe/load": load, "moe/importance": load / 2, "moe/entropy": load.sum() / 4,
            "moe/dropped": dropped, "moe/classes": classes}  # fmt: skip


def test_statistics_are_fractions_of_the_interval():
    found = progress.routing(sums([60, 20, 20, 0], dropped=5))
    assert found["moe/load"] == [0.6, 0.2, 0.2, 0.0] and found["moe/max_load"] == 0.6 and found["moe/min_load"] == 0
    assert found["moe/dead"] == 1 and found["moe/dropped"] == 0.05 and found["moe/entropy"] == 0.5
    assert found["moe/importance"] == found["moe/load"] and found["moe/classes"][0] == [60, 0]


def test_a_starving_expert_is_named_once_with_its_share_and_the_way_out():
    record = {"step": 20, **progress.routing(sums([50, 48, 1, 1]))}
    (text,) = progress.warning(record, {})
    assert "\n" not in text and "expert 2 got 1.00 %" in text and "expert 3" in text and "25.00 %" in text
    assert "moe.balance_loss" in text and "step 20" in text
    assert progress.warning(record, progress.starving(record)) == []


@pytest.mark.parametrize("load", [[25, 25, 25, 25], [70, 20, 6, 4]])
def test_uneven_is_not_yet_starving(load):
    record = {"step": 1, **progress.routing(sums(load))}
    assert progress.warning(record, {}) == [] and progress.starving(record) == {"moe": []}


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
