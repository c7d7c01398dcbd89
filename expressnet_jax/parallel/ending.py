"""Ending a process that can wait for nothing any more, and the exit codes of runs that are to be started again."""

import multiprocessing
import os
import sys
from typing import NoReturn

#: The run is whole and can go on: it was asked to stop, or another process of its job is gone.
AGAIN = 75
#: The run hung, or lost a worker: it can go on, but launchers count this as a crash.
STUCK = 76


def kill_workers() -> None:
    """Ends the processes that this one started to read data, also where they are stopped or hang."""
    for child in multiprocessing.active_children():
        child.kill()


def end_now(code: int) -> NoReturn:
    """Ends this process and the data workers that it started, stopped ones too, and waits for nothing."""
    kill_workers()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
