"""When a run is lost: losses that are no numbers any more, or far above what guessing would give.

Legend: C classes. A network that knows nothing and says so has the loss log C; one far above it is confidently wrong.
"""

import dataclasses
import math
from typing import Any

from data_pipelines.common.errors import Failure
from data_pipelines.common.text import counted
from expressnet_jax.config import Config

#: Logged intervals in a row above the limit that end a run: one of them may be a batch that it gets over.
PATIENCE = 3


class Diverged(Failure):
    """A run that cannot go on as it is; all was well before step `since`."""

    def __init__(self, why: str, config: Config, since: int) -> None:
        rate = f"lower optimizer.learning_rate ({config.optimizer.learning_rate:g})"
        super().__init__(f"the run diverged: {why}; {rate} or set optimizer.clip_norm, with a new --workdir")
        self.since, self.why = since, why


@dataclasses.dataclass
class Divergence:
    """Looks at what a run records; part of each checkpoint, and the same in all processes."""

    since: int = 0  # the end of the last interval in which all was well
    bad: int = 0  # intervals above the limit since then
    loss: float = 0.0  # the mean of the last interval's steps; NaN where none of them was finite

    def interval(self, record: dict[str, Any], config: Config) -> None:
        """Raises Diverged where the run is lost by the record of an interval's steps."""
        row, self.loss = record["nonfinite_in_a_row"], record["loss"]
        if self._fine(config) and not row:
            self.since, self.bad = record["step"], 0
            return
        self.bad += not self._fine(config)
        if row >= config.optimizer.max_nonfinite:
            last = f"in the last {counted(row, 'step')} before step {record['step']} ({record['nonfinite']} in all)"
            raise Diverged(f"gradients were not finite {last}", config, self.since)
        if self.bad >= PATIENCE:
            raise Diverged(f"{self._said(config)} at step {record['step']}", config, self.since)

    def validation(self, step: int, loss: float, config: Config) -> None:
        """Raises Diverged where the validation of the state before `step` gave no number.

        A large number is no sign: early in a run BatchNorm's averages are young.
        """
        if not math.isfinite(loss):
            raise Diverged(f"the validation loss at step {step} is not finite", config, self.since)

    def end(self, step: int, config: Config) -> None:
        """Raises Diverged where what came out of the last step is of no use."""
        if not self._fine(config):
            raise Diverged(f"{self._said(config)} at the last step, {step}", config, self.since)

    def _fine(self, config: Config) -> bool:
        return self.loss <= config.recovery.explosion * math.log(len(config.data.classes))

    def _said(self, config: Config) -> str:
        if math.isnan(self.loss):
            return "no step had finite gradients"
        return f"the loss is {self.loss:.4g}, over {config.recovery.explosion:g} times that of guessing,"
