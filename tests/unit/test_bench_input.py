"""The loader of many hosts, simulated: by cases that can be counted by hand, and by what the real loader does."""

import threading
import time

import numpy as np
import pytest

from data_pipelines import loader
from expressnet_jax.bench import input as bench_input
from expressnet_jax.config import ConfigError
from expressnet_jax.config import files as config_files
from tests.conftest import TINY
from tests.unit.test_loader import fake


def waits(times, step_ms, **loader_of):
    return bench_input.waits(np.asarray(times, float), step_ms, **loader_of).tolist()


def test_two_threads_keep_up_with_steps_of_half_a_batch_and_no_shorter():
    batches = np.full((8, 3), 10.0)  # three hosts
    assert waits(batches, 5) == [10, 0, 0, 0, 0, 0, 0, 0]  # the first one is always waited for
    assert waits(batches, 4) == [10, 0, 2, 0, 2, 0, 2, 0]
    assert waits(batches, 9, threads=1) == [10, 1, 1, 1, 1, 1, 1, 1]
    assert waits(batches, 4, threads=1, ahead=0) == [10] * 8


@pytest.mark.parametrize(("slow", "wait"), [(10, 0), (40, 0), (55, 15), (400, 360)])
def test_a_slow_batch_is_absorbed_for_as_long_as_four_steps(slow, wait):
    """It was asked for four steps before it is needed; the other thread goes on with the rest."""
    batches = np.ones((40, 2))
    batches[20, 1] = slow
    assert waits(batches, 10) == [1] + 19 * [0] + [wait] + 19 * [0]


def test_hosts_wait_for_the_slowest_of_each_step():
    batches = np.ones((40, 3))
    batches[10, 0], batches[10, 2], batches[30, 1] = 50, 70, 60
    found = waits(batches, 10)
    assert (found[10], found[30], sum(found)) == (30, 20, 1 + 30 + 20)


def test_the_forecast_of_equal_batches_is_the_one_by_hand():
    found = bench_input.forecast(np.full(50, 10.0), 4.0, [1, 256])
    assert [row["hosts"] for row in found["forecast"]] == [1, 256]
    for row in found["forecast"]:
        assert row["waiting"] == pytest.approx(0.2, abs=1e-3)  # a batch every 5 ms, of which a step takes 4
        assert row["step_ms"] == pytest.approx(4.9, rel=0.01)  # (5 - 4.9) / 5 is 2 %
    assert found["batch_ms"] == {"median": 10.0, "p99": 10.0, "max": 10.0, "measured": 50}


def test_more_hosts_wait_more_where_one_batch_in_a_thousand_is_slow():
    times = np.ones(1000)
    times[0] = 100.0
    one, eight, many = (row["waiting"] for row in bench_input.forecast(times, 10.0, [1, 8, 256])["forecast"])
    # One host: 100 - 40 ms once in 1000 steps of 10 ms. 256 hosts: a slow one in 1 - 0.999^256 = 23 % of the steps.
    assert 0 <= one < 0.03 and one < eight < many
    assert 0.4 < many < 0.23 * 60 / (0.23 * 60 + 10) + 0.03  # at most: slow batches soon after others wait less


class Watched:
    """Records that are slow to read, and who reads them."""

    def __init__(self, records):
        self.records, self.lock = records, threading.Lock()
        self.now = self.most = self.read = 0

    def __getitems__(self, numbers):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self.lock:
            self.now, self.read = self.now - 1, self.read + 1
        return [self.records[number] for number in numbers]


def test_the_real_loader_has_the_simulated_threads_and_asks_as_far_ahead():
    split = fake(np.zeros(64, int))
    watched = Watched(split.records)
    object.__setattr__(split, "records", watched)
    batches = loader.batches(loader.training_steps(split, 8, seed=0))
    for taken in range(1, 4):
        next(batches)
        deadline = time.monotonic() + 20
        while watched.read < taken + loader.AHEAD and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)  # for one more, if it asked for one
        assert watched.read == taken + loader.AHEAD
    assert watched.most == loader.THREADS


def test_one_host_of_four_is_measured_by_its_own_part(data_dir):
    config = config_files.load(TINY)
    found = bench_input.measure(config, data_dir=str(data_dir), host=3, hosts=4, step_ms=50.0, seconds=0.5)
    assert (found["host"], found["host_batch"], found["picture"]) == ("3 of 4", 4, [48, 48, 3])
    assert found["images_per_second"] > 0 and found["batch_ms"]["measured"] >= 20
    assert [row["hosts"] for row in found["forecast"]] == [1, 4, 8, 64, 256]
    assert "simulated, not run" in bench_input.describe(found)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hosts": 3}, "batch_size=16 is not divisible by --hosts=3"),
        ({"hosts": 4, "host": 4}, "--host=4 is none of --hosts=4"),
        ({"step_ms": -1.0}, "--step_ms=-1 must be above 0"),
        ({"step_ms": float("nan")}, "--step_ms=nan must be above 0"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_is_read(wrong, said):
    with pytest.raises(ConfigError, match=said):
        bench_input.measure(config_files.load(TINY), data_dir="/nowhere", **wrong)
    if "step_ms" in wrong:
        with pytest.raises(ConfigError, match=r"data.workers=2 processes"):
            bench_input.measure(config_files.load(TINY, [("data.workers", "2")]), data_dir="/nowhere", step_ms=5.0)
