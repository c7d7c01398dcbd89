"""The reasons to end a run before its last step: signals and an early stop."""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass
from types import FrameType

from data_pipelines.common.errors import Failure
from expressnet_jax.parallel import distributed

_EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}


class Interrupted(Failure):
    """The run was asked to stop, and did so with its state saved. `exit_code` is 75 for SIGTERM, 130 for SIGINT."""

    def __init__(self, number: int, where: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} with everything saved at {where}; the same command goes on from there")
        self.exit_code = _EXIT_CODES[signal.Signals(number)]


class Signals:
    """While entered, SIGTERM and SIGINT are noted in `received` instead of ending the process.

    A second SIGINT has its usual effect, for somebody who does not want to wait. In a job of several processes SIGTERM
    is left to JAX, through which they agree on a step; a SIGINT to one of them counts as a SIGTERM.
    """

    def __init__(self) -> None:
        self.received = 0
        self._several = distributed.several()

    def __enter__(self) -> Signals:
        numbers = (signal.SIGINT,) if self._several else _EXIT_CODES
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def before(self, step: int) -> int:
        """The signal that asks to stop before this step, or 0; to be asked once for each step."""
        return distributed.stop_agreed(step) if self._several else self.received

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = number
        if self._several:
            signal.raise_signal(signal.SIGTERM)


@dataclass
class EarlyStop:
    """Counts evaluations without a lower validation loss; part of each checkpoint, so a restart does not reset it."""

    patience: int
    best_loss: float | None = None
    waited: int = 0
    evaluated_step: int = -1  # of the last evaluation, so that none is lost or done twice over a restart

    def update(self, step: int, loss: float) -> None:
        """Notes the validation loss before `step`."""
        self.evaluated_step = step
        if math.isfinite(loss) and (self.best_loss is None or loss < self.best_loss):
            self.best_loss, self.waited = loss, 0
        else:
            self.waited += 1

    @property
    def due(self) -> bool:
        """Whether the run should end now; never with a patience of 0."""
        return 0 < self.patience <= self.waited
