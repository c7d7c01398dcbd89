"""A run in Weights & Biases or MLflow as well: its config, its name, its metrics. Whatever fails there, it goes on.

All of it happens in a thread, so that a server that does not answer is not waited for. Nothing of it is `clu`'s
MetricWriter: importing that module imports TensorFlow, and of its ten methods one would be used.
"""

import contextlib
import importlib.util
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from data_pipelines.common.files import read_object, write_text
from data_pipelines.common.text import json_line, nearest, one_line, say
from expressnet_jax.config import Config, ConfigError, to_dict
from expressnet_jax.config import files as config_files
from expressnet_jax.parallel import distributed

#: In the folder of a run: by which name each tracker knows it.
FILE = "tracking.json"
_PROJECT = "expressnet_jax"  # where the user's environment names none
_PATIENCE = 30.0  # seconds for what is still to be sent when a run ends

Write = Callable[[str, dict[str, Any]], None]


class _Session(Protocol):
    """A run that a tracker shows; made by its library, in the folder, again where `known` is its name there."""

    id: str

    def __init__(self, workdir: Path, config: Config, known: str | None) -> None: ...

    def log(self, step: int, values: dict[str, float]) -> None:
        """Adds metrics; a step may come again, or one before the last."""

    def end(self, *, failed: bool) -> None:
        """Sends what is still to be sent."""


class _Wandb:
    """In the project WANDB_PROJECT; WANDB_MODE=offline keeps all in the folder of the run."""

    def __init__(self, workdir: Path, config: Config, known: str | None) -> None:
        import wandb

        self.run = wandb.init(
            dir=str(workdir), project=os.environ.get("WANDB_PROJECT", _PROJECT), name=workdir.absolute().name, id=known,
            resume="allow", config=to_dict(config), allow_val_change=True, settings=wandb.Settings(console="off"),
        )  # fmt: skip
        self.id = self.run.id
        self.run.define_metric("*", step_metric="step")  # its own count only grows, and a run may be rolled back

    def log(self, step: int, values: dict[str, float]) -> None:
        self.run.log({"step": step, **values})

    def end(self, *, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class _Mlflow:
    """At MLFLOW_TRACKING_URI, in the experiment MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, workdir: Path, config: Config, known: str | None) -> None:
        import mlflow

        self.entities, self.client = mlflow.entities, mlflow.MlflowClient()
        if known:
            self.id = known
            self.client.update_run(known, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        where = experiment.experiment_id if experiment else self.client.create_experiment(name)
        self.id = self.client.create_run(where, run_name=workdir.absolute().name).info.run_id
        params = [self.entities.Param(key, str(value)) for key, value in config_files.flat(to_dict(config)).items()]
        for start in range(0, len(params), 100):  # as many as it takes at once
            self.client.log_batch(self.id, params=params[start : start + 100])

    def log(self, step: int, values: dict[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self.entities.Metric(name, value, now, step) for name, value in values.items()]
        for start in range(0, len(metrics), 1000):
            self.client.log_batch(self.id, metrics=metrics[start : start + 1000])

    def end(self, *, failed: bool) -> None:
        self.client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


_TRACKERS: dict[str, type[_Session]] = {"wandb": _Wandb, "mlflow": _Mlflow}


def check(name: str | None) -> None:
    """Raises ConfigError for a tracker that is not known, or whose library is not installed."""
    if name is None:
        return
    if name not in _TRACKERS:
        raise ConfigError(f"track={name!r}{nearest(name, _TRACKERS)}; one of {', '.join(_TRACKERS)}")
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:  # a folder ./wandb, which it leaves, is no library
        raise ConfigError(f"{name} is not installed: pip install 'expressnet_jax[{name}]'")


@contextlib.contextmanager
def tracked(name: str | None, workdir: Path, config: Config) -> Iterator[Write]:
    """Gives `write(kind, record)`, as `folder.metrics` does; nothing is done without a name, or but for the first
    process. The run that the folder knows of is gone on with."""
    if name is None or not distributed.is_first():
        yield lambda kind, record: None
        return
    thread = _Thread(name, workdir, config)
    try:
        yield thread.write
    except BaseException:
        thread.end(failed=True)
        raise
    thread.end(failed=False)


class _Thread:
    """Where a tracker's library works; what it raises is one warning, and the end of the tracking."""

    def __init__(self, name: str, workdir: Path, config: Config) -> None:
        self._name, self._workdir, self._config = name, workdir, config
        self._records: queue.SimpleQueue[tuple[int, dict[str, float]] | bool] = queue.SimpleQueue()
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name=f"tracking by {name}", daemon=True)
        self._thread.start()

    def write(self, kind: str, record: dict[str, Any]) -> None:
        """Queues the numbers of a record."""
        if self._thread.is_alive():
            self._records.put((record["step"], _numbers(kind, record)))

    def end(self, *, failed: bool) -> None:
        """Waits a while for what is queued."""
        self._records.put(failed)
        self._thread.join(_PATIENCE)
        if self._thread.is_alive():
            self._given_up = True
            say(f"warning: {self._name} has not taken all within {_PATIENCE:.0f} s; the rest is in metrics.jsonl alone")

    def _run(self) -> None:
        try:
            ids = read_object(self._workdir / FILE)
            session = _TRACKERS[self._name](self._workdir, self._config, ids.get(self._name))
            write_text(self._workdir / FILE, json_line({**ids, self._name: session.id}))
            while not isinstance(record := self._records.get(), bool):
                session.log(*record)
            session.end(failed=record)
        except (Exception, SystemExit) as error:
            why = one_line(error)[:300] or type(error).__name__
            if not self._given_up:  # which was a warning already
                say(f"warning: {self._name} tracks this run no further ({why}); training goes on")


def _numbers(kind: str, record: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a record, and of its lists, by name: "train/loss", "train/moe_cnn/load/0"."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        each = {f"/{at}": part for at, part in enumerate(value)} if isinstance(value, list) else {"": value}
        found |= {f"{kind}/{name}{end}": part for end, part in each.items() if name != "step"}
    return {name: float(value) for name, value in found.items() if is_number(value)}


def is_number(value: Any) -> bool:
    """Whether a chart can show it."""
    return isinstance(value, (int, float)) and math.isfinite(value)
