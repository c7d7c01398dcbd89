"""How far a run is: sums of an interval as a record and as a line, what its routers do, and the time remaining."""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from data_pipelines.common.text import counted, span
from expressnet_jax.config import Clock
from expressnet_jax.train.times import Times

#: An expert that gets less than this part of an even share of the selections starves: it hardly learns any more.
STARVING = 0.1
#: Records in a row after which an expert that starved in all of them is warned of: routers sway when a run begins.
PATIENCE = 5


class Interval(NamedTuple):
    """Some steps that the device has been given."""

    step: int  # the one after the last of them
    sums: dict[str, Any]
    waited: float  # seconds for which the loop stood still for want of a batch
    done_at: Future[float]  # time.monotonic() when the last of them was done


class Progress:
    """Turns the sums of an interval into a record and a line, and knows how long the rest will take."""

    def __init__(self, clock: Clock, start: int, times: Times) -> None:
        self._clock, self._start, self._times = clock, start, times
        self._watcher = ThreadPoolExecutor(1)
        self._starved: Counter[tuple[str, int]] = Counter()  # records in a row, by layer and expert
        self._warned, self._dead = False, set[str]()
        self.restart()

    def restart(self) -> None:
        """Forgets the time so far: the first step compiles, and is no measure of the others."""
        self._began = self._done_at = time.monotonic()
        self._done_step, self._paused, self._waited = self._start, 0.0, 0.0

    def watch(self, step: int, sums: dict[str, Any]) -> Interval:
        """An interval that has just been sent to the device; a thread notes when it is done, and nobody waits."""

        def done_at() -> float:
            jax.block_until_ready(sums)
            return time.monotonic()

        waited, self._waited = self._waited, 0.0
        return Interval(step, sums, waited, self._watcher.submit(done_at))

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts time in which the loop waits for the loader (the device may still be busy meanwhile)."""
        began = time.monotonic()
        with self._times.during("data"):
            yield
        self._waited += time.monotonic() - began

    @contextlib.contextmanager
    def pause(self, state: Any) -> Iterator[None]:
        """Leaves evaluation and saving out of the training speed (they stay in the time remaining).

        Waits for `state` first: steps still running are training, whoever waits for them.
        """
        jax.block_until_ready(state)
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def record(self, interval: Interval) -> dict[str, Any]:
        """Means over an interval, from its sums (fetched from the device here)."""
        step, values = interval.step, {k: np.asarray(v, np.float64) for k, v in jax.device_get(interval.sums).items()}
        done_at = interval.done_at.result()
        images = (step - self._done_step) * self._clock.batch_size
        seconds = max(done_at - self._done_at - self._paused, 1e-9)
        self._done_at, self._done_step, self._paused = done_at, step, 0.0
        # Of an interval of skipped steps alone there is no mean.
        count, steps = (float(values[name]) or math.nan for name in ("count", "steps"))
        record: dict[str, Any] = {
            "step": step, "epoch": round(self._clock.epoch(step), 4),
            "loss": float(values["loss"]) / count, "auxiliary_loss": float(values["auxiliary"]) / steps,
            "accuracy": float(values["correct"]) / count,
            "gradient_norm": float(values["gradient_norm"]) / steps,
            "learning_rate": float(values["learning_rate"]),
            "nonfinite_in_a_row": int(values["nonfinite"][0]), "nonfinite": int(values["nonfinite"][1]),
            "images_per_second": round(images / seconds, 2),
            "data_wait": round(min(interval.waited / seconds, 1.0), 4),  # fraction of the time
        }  # fmt: skip
        return record | routing(values)

    def lines(self, record: dict[str, Any]) -> list[str]:
        """The record for a person, with the time remaining at the pace so far; once a run, that experts starve."""
        done, total = record["step"], self._clock.total_steps
        pace = (time.monotonic() - self._began) / max(done - self._start, 1)
        line = (
            f"step {done}/{total}  epoch {record['epoch']:.2f}  {_outcome(record)}  "
            f"rate {record['learning_rate']:.2e}  {record['images_per_second']:.3g} images/s  "
            f"{span((total - done) * pace)} left"
        )
        return [line, *self._warning(record)]

    def warnings_of_parts(self, silent: Mapping[str, tuple[int, int]]) -> list[str]:
        """Once a run, for each part of the network most of whose outputs are `silent`, as `answers.evaluate` says."""
        dead = {part: counts for part, counts in silent.items() if 2 * counts[0] > counts[1] and part not in self._dead}
        self._dead |= dead.keys()
        return [
            f"warning: {count} of {size} outputs of {part} are the same for every picture, so that it tells the others "
            "next to nothing; model.dense_batchnorm=true or a lower optimizer.learning_rate may keep it alive "
            "(docs/recipes.md); this is said once"
            for part, (count, size) in dead.items()
        ]

    def _warning(self, record: dict[str, Any]) -> list[str]:
        """One line in a run, as soon as an expert has starved in `PATIENCE` records in a row."""
        self._starved = Counter({expert: self._starved[expert] + 1 for expert in starving(record)})
        lasting = [expert for expert, records in self._starved.items() if records >= PATIENCE]
        if self._warned or not lasting:
            return []
        self._warned = True
        shares = [f"expert {e} of {layer} {100 * record[f'{layer}/load'][e]:.2f} %" for layer, e in lasting]
        even = min(100 / len(record[f"{layer}/load"]) for layer, _ in lasting)
        way_out = "moe.balance_loss=0.05 or moe.balance_bias=0.02 may spread them (docs/moe.md)"
        return [
            f"warning: experts starve at step {record['step']}, as in the {PATIENCE - 1} records before: "
            f"{', '.join(shares)} of the selections (an even share is {even:.2f} %); {way_out}; this is said once"
        ]


def _outcome(record: dict[str, Any]) -> str:
    """Loss and accuracy for a person, and how many steps in a row were skipped for want of finite gradients."""
    skipped = f"{counted(record['nonfinite_in_a_row'], 'step')} skipped" if record["nonfinite_in_a_row"] else ""
    if math.isnan(record["loss"]):
        return skipped
    return f"loss {record['loss']:.4f}  accuracy {record['accuracy']:.3f}" + (f"  {skipped}" if skipped else "")


def routing(sums: dict[str, np.ndarray]) -> dict[str, Any]:
    """The record of every routed layer in the sums of `step.train_step`.

    `load` and `importance` are each expert's fraction of the selections and of the probability, `max_load` and
    `min_load` the extremes of the former, `dead` the number of experts that were nobody's first choice,
    `entropy` a mean in nats, `dropped` a fraction of the pairs, `classes` the selections by expert and class.
    """
    found: dict[str, Any] = {}
    count = max(float(sums["count"]), 1.0)
    for layer in (key.removesuffix("/load") for key in sums if key.endswith("/load")):
        load, importance = sums[f"{layer}/load"], sums[f"{layer}/importance"]
        selections = max(float(load.sum()), 1.0)
        each = {
            "load": np.round(load / selections, 6).tolist(),
            "importance": np.round(importance / max(float(importance.sum()), 1e-9), 6).tolist(),
            "max_load": float(load.max()) / selections, "min_load": float(load.min()) / selections,
            "dead": int((sums[f"{layer}/first"] == 0).sum()),
            "entropy": float(sums[f"{layer}/entropy"]) / count,
            "dropped": float(sums[f"{layer}/dropped"]) / selections,
            "classes": sums[f"{layer}/classes"].astype(int).tolist(),
        }  # fmt: skip
        found |= {f"{layer}/{name}": value for name, value in each.items()}
    return found


def starving(record: dict[str, Any]) -> list[tuple[str, int]]:
    """The experts that starved in the interval of a record, as pairs of a layer and a number."""
    loads = {key.removesuffix("/load"): np.asarray(value) for key, value in record.items() if key.endswith("/load")}
    return [(layer, int(e)) for layer, load in loads.items() for e in np.flatnonzero(load < STARVING / load.size)]
