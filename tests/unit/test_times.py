"""Where the time of a run went: nothing is counted twice, and nothing is left out."""

import time

from expressnet_jax.train import times


def test_the_parts_add_up_to_the_whole(monkeypatch):
    clock = iter([0.0, 10.0, 13.0, 14.0, 20.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    found = times.Times()  # at 0
    found.switch("steps")  # at 10
    with found.during("data"):  # 13 to 14
        pass
    spent = found.so_far()  # at 20
    assert {name: seconds for name, seconds in spent.items() if seconds} == {"start-up": 10, "steps": 9, "data": 1}
    assert times.shares(spent) == "start-up 50 %, steps 45 %, data 5 %"


def test_a_restart_costs_what_no_checkpoint_knows_and_the_time_between():
    known = {"steps": 50.0, "saving": 2.0}
    heartbeat = {"time": 1000.0, "times": {"steps": 70.0, "saving": 3.0}}
    assert times.of_restart(heartbeat, known, 1090.0) == {"lost": 21.0, "stopped": 90.0}
    assert times.of_restart(heartbeat, {}, 900.0) == {"lost": 73.0, "stopped": 0.0}


def test_a_heartbeat_that_holds_something_else_is_none():
    for found in ({}, {"time": "x", "times": {}}, {"time": 1.0, "times": 3}, {"time": 1.0, "times": {"a": "b"}}):
        assert times.of_restart(found, {}, 0.0) == {}
