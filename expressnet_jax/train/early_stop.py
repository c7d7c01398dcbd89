"""When training longer is of no use."""

import dataclasses
import math


@dataclasses.dataclass
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
