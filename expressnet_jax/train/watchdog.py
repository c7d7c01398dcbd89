"""Ends a run that hangs, with the stacks of all threads in a file; and a heartbeat for monitors outside."""

import contextlib
import faulthandler
import os
import socket
import threading
import time
from pathlib import Path
from typing import Self

import jax

from data_pipelines.common import files
from data_pipelines.common.text import json_line, say
from expressnet_jax.parallel import distributed
from expressnet_jax.parallel.ending import STUCK, end_now
from expressnet_jax.train.times import Times

#: Seconds between two heartbeats.
INTERVAL = 10.0
_SHOWN = 12  # lines of the stacks on the screen
_COMPILING = 4  # times as long as anything else may a compilation take, of which nothing is heard until its end


class Watchdog:
    """While entered, a thread looks whether the main one gets on, and writes the heartbeat; `beat` tells it so.

    heartbeat.json, of the first process: the time (seconds since 1970), the step that is next, how many seconds ago
    that was told, what goes on, where, and the seconds that the run has spent so far by what they went into.
    """

    def __init__(self, workdir: Path, seconds: float, times: Times) -> None:
        self._workdir, self._seconds, self._times = workdir, seconds, times
        self._step, self._told = 0, time.monotonic()
        self._compiling = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._write("ended")

    def beat(self, step: int | None = None, *, compiling: bool = False) -> None:
        """Tells that the main thread is not stuck: it has come to `step`, or on with what it does before that.

        `compiling` tells that there may be a compilation before the next beat, which may take longer than all else.
        """
        self._compiling = compiling
        self._step, self._told = self._step if step is None else step, time.monotonic()

    def _watch(self) -> None:
        pause, looked = min(INTERVAL, self._seconds / 4), time.monotonic()
        while not self._over.wait(pause):
            late = time.monotonic() - looked - pause
            if late > pause:  # all threads stood still: the process was stopped, by Ctrl-Z or a cluster's suspension
                self._told += late
            looked = time.monotonic()
            self._write(self._times.now)
            distributed.tell_where(f"step {self._step}, {self._times.now}")
            patience = self._seconds * (_COMPILING if self._compiling else 1)
            if time.monotonic() - self._told > patience:
                self._end(patience)

    def _write(self, doing: str) -> None:
        if not distributed.is_first():
            return
        now = {
            "time": time.time(), "step": self._step, "seconds_ago": round(time.monotonic() - self._told, 1),
            "doing": doing, "host": socket.gethostname(), "process": os.getpid(),
            "times": {name: round(seconds, 3) for name, seconds in self._times.so_far().items()},
        }  # fmt: skip
        try:
            files.write_text(self._workdir / "heartbeat.json", json_line(now))
        except OSError:  # a full disk: whatever has to be written will say so
            return

    def _end(self, patience: float) -> None:
        """Says where everything stands, and ends the process with `STUCK`."""
        number = jax.process_index()
        path = self._workdir / f"stacks.{number}.txt"
        try:
            with path.open("w") as file:
                file.write(f"step {self._step}, {self._times.now}, process {number} on {socket.gethostname()}\n")
                file.writelines(f"child process {line}\n" for line in _children())
                file.flush()
                faulthandler.dump_traceback(file)
            last = path.read_text().splitlines()[-_SHOWN:]
        except OSError as error:
            last = [f"the stacks could not be written: {error}"]
        say("\n".join([*last, *distributed.whereabouts()]))
        say(
            f"expressnet: step {self._step} has not ended in {patience:g} s (watchdog.seconds; the run was busy "
            f"with: {self._times.now}); all stacks are in {path}; the same command goes on from the newest checkpoint"
        )
        end_now(STUCK)


def _children() -> list[str]:
    """Number, state and name of each child process, where the system is Linux: a worker may be stopped (T)."""
    found = []
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread or a child that has just ended
            for number in path.read_text().split():
                name, state = (Path("/proc") / number / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
                found.append(f"{number} ({name}), state {state.split()[0]}")
    return found
