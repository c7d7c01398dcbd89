"""What the wall time of a run went into, restarts included: its goodput is the part of the steps."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

#: What the main thread can be busy with, or wait for; and what restarts cost: steps that a crash lost, time between
#: the end of a process and the start of the next.
DOING = ("start-up", "compilation", "steps", "data", "evaluation", "saving")
RESTARTS = ("lost", "stopped")


class Times:
    """A partition of the time: it is always one of `DOING` that goes on, "start-up" in the beginning."""

    def __init__(self, before: Mapping[str, float] | None = None) -> None:
        """`before`: the seconds of this run's earlier processes, as `so_far` gave them."""
        self.now, self.began = DOING[0], time.time()
        self._since = time.monotonic()
        self._seconds = dict.fromkeys((*DOING, *RESTARTS), 0.0)
        self.add(before or {})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Counts more of some names, such as what a restart has cost."""
        for name, more in seconds.items():
            self._seconds[name] += more

    def switch(self, what: str) -> str:
        """From here on the time goes into `what`; returns what it went into before."""
        now, before = time.monotonic(), self.now
        self._seconds[before] += now - self._since
        self.now, self._since = what, now
        return before

    @contextlib.contextmanager
    def during(self, what: str) -> Iterator[None]:
        """The time of the body goes into `what`."""
        before = self.switch(what)
        try:
            yield
        finally:
            self.switch(before)

    def so_far(self) -> dict[str, float]:
        """Seconds by name, those that go on just now included."""
        return self._seconds | {self.now: self._seconds[self.now] + time.monotonic() - self._since}


def shares(seconds: Mapping[str, float]) -> str:
    """For a person: what the time went into, the largest part first, in percent; nothing below half a percent."""
    total = max(sum(seconds.values()), 1e-9)
    parts = sorted(seconds.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {100 * part / total:.0f} %" for name, part in parts if part / total >= 0.005)


def of_restart(heartbeat: Mapping[str, Any], known: Mapping[str, float], began: float) -> dict[str, float]:
    """What the end of the process before has cost, by its last heartbeat and the times that the checkpoint knows.

    `began` is when this process began, in seconds since 1970. Nothing where there is no heartbeat, or one that holds
    something else.
    """
    try:
        spent, then = sum(map(float, heartbeat["times"].values())), float(heartbeat["time"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    if not math.isfinite(spent + then):
        return {}
    return {"lost": max(spent - sum(known.values()), 0.0), "stopped": max(began - then, 0.0)}
