"""SIGTERM and SIGINT as requests to stop: answered before the next step, or at once by somebody who asks twice."""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Self

from data_pipelines.common.errors import Failure
from data_pipelines.common.text import say
from expressnet_jax.parallel import distributed
from expressnet_jax.parallel.ending import AGAIN, end_now, kill_workers

_EXIT_CODES = {signal.SIGTERM: AGAIN, signal.SIGINT: 130}


class Interrupted(Failure):
    """The run was asked to stop, and did so; `saved` says what of it is on the disk ("everything saved at step 8").

    `exit_code` is 75 for SIGTERM, 130 for SIGINT.
    """

    def __init__(self, number: int, saved: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} with {saved}; the same command goes on from there")
        self.exit_code = _EXIT_CODES[signal.Signals(number)]


class WaitCutShort(Exception):
    """A signal came while the loop waited for data."""


class Signals:
    """While entered, SIGTERM and SIGINT are noted in `received` instead of ending the process.

    A second SIGINT ends the process at once, whatever it is waiting for. In a job of several processes SIGTERM is left
    to JAX, through which they agree on a step; a SIGINT to one of them counts as a SIGTERM.
    """

    def __init__(self) -> None:
        self.received = 0
        self._at = 0.0  # time.monotonic() when it was, or when the processes agreed to stop
        self._several = distributed.several()
        self._waiting = False
        self._asked = 0  # the same in all processes

    def __enter__(self) -> Self:
        numbers = (signal.SIGINT,) if self._several else _EXIT_CODES
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        # Python runs handlers between two of its own instructions, and a thread that waits in C has none. But the
        # signal's number is written here at once.
        reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._fd_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_insist, args=(reader,), name="second SIGINT", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        self._writer.close()

    def before_step(self) -> int:
        """The signal that asks to stop before the next step, or 0; to be asked once for each step."""
        self._asked += 1
        asked = distributed.stop_agreed(self._asked) if self._several else self.received
        self._at = self._at or (time.monotonic() if asked else 0.0)
        return asked

    @property
    def seconds(self) -> float:
        """How long ago it was: what clusters must leave between SIGTERM and the end."""
        return time.monotonic() - self._at

    @contextlib.contextmanager
    def cutting_short(self) -> Iterator[None]:
        """What runs in here only waits, and ends with WaitCutShort when a signal comes.

        Not in a job of several processes, where nobody stops alone.
        """
        self._waiting = not self._several
        try:
            if self._waiting and self.received:
                raise WaitCutShort
            yield
        finally:
            self._waiting = False

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received, self._at = self.received or number, self._at or time.monotonic()
        if self._several:
            signal.raise_signal(signal.SIGTERM)
        if self._waiting:
            kill_workers()  # which may be what hangs, and would be waited for
            raise WaitCutShort


def _insist(reader: socket.socket) -> None:
    """Ends the process at the second SIGINT; returns when the other end is closed."""
    times = 0
    with reader:
        while numbers := reader.recv(64):
            times += numbers.count(signal.SIGINT)
            if times > 1:
                say("expressnet: a second SIGINT: ended at once; the same command goes on from the newest checkpoint")
                end_now(_EXIT_CODES[signal.SIGINT])
