"""Lengths of training, in the unit that suits the reader: steps, epochs, examples, or percent of the whole."""

from __future__ import annotations

import re
from dataclasses import dataclass

from expressnet_jax.config.settings import ConfigError

_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(steps?|epochs?|examples?|%)")


@dataclass(frozen=True)
class Clock:
    """What a duration is measured against."""

    batch_size: int
    examples: int  # in one epoch of the training split
    total_steps: int = 0

    def steps(self, duration: str, key: str = "duration") -> int:
        """Steps in `duration`, rounded to the nearest and at least 1 (0 only for a duration of 0).

        Raises ConfigError, naming `key`, where the text is not a duration.
        """
        number, unit = parse(duration, key)
        epoch = self.examples / self.batch_size
        lengths = {"step": 1.0, "epoch": epoch, "example": 1.0 / self.batch_size, "%": self.total_steps / 100}
        return max(1, round(number * lengths[unit])) if number else 0

    def epoch(self, step: int) -> float:
        """Epochs seen before `step`."""
        return step * self.batch_size / self.examples


def parse(duration: str, key: str = "duration") -> tuple[float, str]:
    """Splits "15epochs" into (15.0, "epoch"). Units: step, epoch, example, %."""
    match = _FORM.fullmatch(duration.strip())
    if not match:
        raise ConfigError(f"{key}={duration!r} is not a duration; write 30steps, 15epochs, 10000examples or 5%")
    return float(match[1]), match[2].rstrip("s") if match[2] != "%" else "%"
