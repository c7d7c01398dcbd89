"""When a run is lost: losses that are no numbers any more, or far above what guessing would give.

Legend: C classes. A network that knows nothing and says so has the loss log C; one far above it is confidently wrong.
"""

import dataclasses
import math
from typing import Any

from data_pipelines.common.errors import Failure
from data_pipelines.common.text import counted
from expressnet_jax.config import Clock, Config, ConfigError

#: Logged intervals in a row above the limit that end a run: one of them may be a batch that it gets over.
PATIENCE = 3


class Diverged(Failure):
    """A run that cannot go on as it is; all was well before step `since`."""

    def __init__(self, why: str, config: Config, since: int) -> None:
        rate = f"lower optimizer.learning_rate ({config.optimizer.learning_rate:g})"
        super().__init__(f"the run diverged: {why}; {rate} or set optimizer.clip_norm, with a new --workdir")
        self.since, self.why = since, why


def check(config: Config, clock: Clock) -> None:
    """Raises ConfigError where rolling back might find that no checkpoint from before a loss exploded is left.

    One is written at most every `save_every`, and what an interval was is known at its end, `log_every` later.
    """
    unjudged = -(-clock.steps(config.log_every, "log_every") // clock.steps(config.save_every, "save_every"))
    if config.recovery.rollbacks and config.keep <= unjudged:
        raise ConfigError(
            f"recovery.rollbacks needs keep of more than {unjudged} (it is {config.keep}): so many checkpoints may be "
            "written before a loss that explodes is noticed (log_every / save_every)"
        )


@dataclasses.dataclass
class Divergence:
    """Looks at what a run records; part of each checkpoint, and the same in all processes."""

    since: int = 0  # the end of the last interval in which all was well
    bad: int = 0  # intervals above the limit since then
    loss: float = 0.0  # the mean of the last interval's steps; NaN where none of them was finite
    row: int = 0  # steps without finite gradients that the last interval has ended with

    def interval(self, record: dict[str, Any], config: Config) -> None:
        """Raises Diverged where the run is lost by the record of an interval's steps."""
        self.row, self.loss = record["nonfinite_in_a_row"], record["loss"]
        if not math.isnan(self.loss):  # else all steps were skipped, and nothing has changed
            self.bad = 0 if self._fine(config) else self.bad + 1
        if self._fine(config) and not self.row:
            self.since = record["step"]
        if self.row >= config.optimizer.max_nonfinite:
            steps = counted(self.row, "step")
            last = f"in the last {steps} before step {record['step']} ({record['nonfinite']} in all)"
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
        many = self.row >= min(config.optimizer.max_nonfinite, step)  # after few the weights are as they were
        if self.bad or (math.isnan(self.loss) and many):
            raise Diverged(f"{self._said(config)} at the last step, {step}", config, self.since)

    def _fine(self, config: Config) -> bool:
        return self.loss <= config.recovery.explosion * math.log(len(config.data.classes))

    def _said(self, config: Config) -> str:
        if math.isnan(self.loss):
            return "no step had finite gradients"
        return f"the loss is {self.loss:.4g}, over {config.recovery.explosion:g} times that of guessing,"


@dataclasses.dataclass(frozen=True)
class RolledBack:
    """What going back to earlier checkpoints has changed; part of each checkpoint since."""

    times: int = 0
    left_out: int = 0  # batches: step s takes that of position s + left_out
