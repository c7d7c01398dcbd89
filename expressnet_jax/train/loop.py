"""The training loop, from a checked config to a finished run folder.

The order inside the loop is fixed: evaluate the state if due, save it if due, draw the next batch, step, and write the
metrics of an earlier interval. A checkpoint is therefore always {the state before step s, the position s}, with the
validation result of just that state, and an interruption anywhere loses nothing but time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from data_pipelines.common.errors import Failure
from data_pipelines.common.text import counted, span
from expressnet_jax.checkpoint.manager import Manager
from expressnet_jax.config import Clock, Config, ConfigError, to_dict
from expressnet_jax.evaluation import answers
from expressnet_jax.models import choice, expressnet
from expressnet_jax.moe import dispatch
from expressnet_jax.parallel import distributed
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.parallel.distributed import say
from expressnet_jax.runs import data as datas
from expressnet_jax.runs import folder as run_folder
from expressnet_jax.runs import restore
from expressnet_jax.runs import state as states
from expressnet_jax.train import step as steps
from expressnet_jax.train.progress import Interval, Progress

_VALIDATION = ("accuracy", "mean_class_accuracy", "macro_f1", "loss")  # what is kept of a validation
_EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}


class TrainingError(Failure):
    """A run that cannot go on; the message is one line."""


class Interrupted(Failure):
    """The run was asked to stop, and did so with its state saved. `exit_code` is 75 for SIGTERM, 130 for SIGINT."""

    def __init__(self, number: int, where: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} with everything saved at {where}; the same command goes on from there")
        self.exit_code = _EXIT_CODES[signal.Signals(number)]


def train(config: Config, workdir: Path, *, data_dir: str | None = None) -> dict[str, Any]:
    """Trains until `config.total` or an early stop, from the newest checkpoint in `workdir` if there is one.

    Returns the summary that it also leaves in `workdir`. Raises Interrupted at the next step after SIGTERM or SIGINT,
    once the state is saved; TrainingError after too many non-finite gradients in a row.
    """
    with Signals() as signals, contextlib.ExitStack() as held:
        with distributed.together():
            mesh = meshes.create(config)
            data = datas.open_data(config, data_dir)
            config = restore.expected_config(config, workdir)
            if not (workdir / "config.json").exists():
                restore.initial_model(config)  # what does not fit is said before there is a folder
        clock = clock_of(config, data.examples)
        _announce(config, data, clock, mesh)
        held.enter_context(run_folder.held(workdir, config))
        manager = held.enter_context(Manager(workdir / "checkpoints", keep=config.keep))
        held.enter_context(jax.set_mesh(mesh))
        run = Run(config, data, mesh, clock, manager)
        start = run.start()
        with distributed.together():
            if distributed.is_first():
                run_folder.write_parameters(workdir, run.state.params)
                if start < clock.total_steps:
                    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.abstract))
                    run_folder.check_space(workdir, size * (config.keep + 2))
        with run_folder.metrics(workdir, start, run.early.evaluated_step) as write:
            reason = run.loop(start, write, signals)
        manager.wait()
        summary = run.summary(reason)
        if distributed.is_first():
            run_folder.write_summary(workdir, summary)
    return summary


def clock_of(config: Config, examples: int) -> Clock:
    """The clock of a run over `examples` training examples, with its total number of steps."""
    return Clock(config.batch_size, examples, Clock(config.batch_size, examples).steps(config.total, "total"))


def _announce(config: Config, data: datas.TrainingData, clock: Clock, mesh: jax.sharding.Mesh) -> None:
    devices = counted(mesh.size, f"{jax.devices()[0].platform} device")
    say(
        f"{config.data.name}: {data.examples} examples to train on, {len(data.validation)} to validate on; "
        f"{counted(clock.total_steps, 'step')} of {config.batch_size} on {devices}"
    )
    for line in distributed.table() if distributed.several() else ():
        say(line)
    say(choice.describe(config.model, train=True))
    if expressnet.routed_layers(config):
        say("experts: {}: {}".format(*dispatch.choose(config.moe, config.mesh.expert)))


class Run:
    """The moving parts of one run, made once; `loop` is the training loop."""

    def __init__(
        self, config: Config, data: datas.TrainingData, mesh: jax.sharding.Mesh, clock: Clock, manager: Manager
    ) -> None:
        self.config, self.data, self.mesh, self.clock, self.manager = config, data, mesh, clock, manager
        self.programs = steps.programs(config, clock, mesh)
        self.abstract = states.abstract(config, self.programs.optimizer, mesh)
        self.early = EarlyStop(config.early_stop.patience)
        self.seconds, self.began = 0.0, time.monotonic()  # of training so far, restarts included

    def start(self) -> int:
        """Restores the newest checkpoint, or makes a new state; returns the step to go on from."""
        if (step := self.manager.latest_step()) is None:
            self.state = states.init(self.config, self.programs.optimizer, self.mesh)
            model, lines = restore.initial_model(self.config)
            if model is not None:
                self.state = restore.from_model(model, self.state)
            for line in lines:
                say(line)
            return 0
        record = self.manager.record(step)
        if record["examples"] != self.clock.examples:
            raise ConfigError(
                f"this run began with {record['examples']} training examples of {self.config.data.name} and now there "
                f"are {self.clock.examples}; prepare the same data again, or choose another --workdir"
            )
        self.state = states.State(**self.manager.restore(step, self.abstract._asdict()))
        self.early = EarlyStop(**{**record["early_stop"], "patience": self.config.early_stop.patience})
        self.seconds = record["seconds"]
        say(f"going on from step {step} of {self.clock.total_steps}")
        return step

    def loop(self, start: int, write: Callable[[str, dict[str, Any]], None], signals: Signals) -> str:
        """Runs from step `start` to the last one; returns why it ended."""
        total, intervals = self.clock.total_steps, ("eval_every", "save_every", "log_every")
        eval_every, save_every, log_every = (self.clock.steps(getattr(self.config, key), key) for key in intervals)
        self.write, self.progress = write, Progress(self.clock, start)
        run_step, sums, batches = self.programs.step, self.programs.zero_sums(), self._batches(start)
        pending: Interval | None = None  # the interval before: its sums are ready by now
        for step in range(start, total + 1):
            interrupted = signals.before(step)  # read once a step: what is skipped for it must also be made up for
            reason = self._ending(step, interrupted)
            # Once for each due step, restarts included; a run asked to stop evaluates when it is started again.
            evaluate = _due(step, eval_every, total) and step > max(0, self.early.evaluated_step) and not interrupted
            if evaluate or (step > start and (reason or _due(step, save_every, total))):
                with self.progress.pause(self.state):
                    self._write(pending)  # now, or a crash after the save would lose it
                    pending = None
                    self._save(step, self._evaluate(step) if evaluate else None)
                reason = self._ending(step, interrupted)
            if interrupted:
                self.manager.wait()
                raise Interrupted(interrupted, f"step {step}")
            if reason:
                return reason
            batch = next(batches)
            if step == start:
                run_step = self._compiled(sums, batch)
            self.state, sums = run_step(self.state, sums, batch)
            if _due(step + 1, log_every, total):
                self._write(pending)
                pending, sums = self.progress.watch(step + 1, sums), self.programs.zero_sums()
        raise AssertionError("the last step ends the loop")

    def summary(self, reason: str) -> dict[str, Any]:
        """What came out of the run, from its best checkpoint."""
        step = self.manager.best_step() or 0
        best = self.manager.record(step)
        return {
            "result": reason, "data": self.config.data.name, "classes": list(self.config.data.classes),
            "steps": self.clock.total_steps if reason.startswith("finished") else self.early.evaluated_step,
            "best_step": step, "best_epoch": round(self.clock.epoch(step), 2),
            "validation": {key: best["validation"][key] for key in _VALIDATION},
            "training_time": span(self.seconds),
            "devices": f"{self.mesh.size} x {jax.devices()[0].device_kind}", "jax": jax.__version__,
        }  # fmt: skip

    def _batches(self, start: int) -> Iterator[steps.Batch]:
        """Batches on the device, one ahead: the next one crosses the bus while a step runs."""
        host_batches = datas.batches(self.config, self.data, start)
        ahead = meshes.to_device(self.mesh, next(host_batches))
        while True:
            with self.progress.waiting():
                host_batch = next(host_batches)
            ready, ahead = ahead, meshes.to_device(self.mesh, host_batch)
            yield ready

    def _compiled(self, sums: steps.Metrics, batch: steps.Batch) -> Any:
        began = time.monotonic()
        say("compiling the training step")
        compiled = self.programs.step.lower(self.state, sums, batch).compile()
        say(f"compiled in {span(time.monotonic() - began)}")
        self.progress.restart()
        return compiled

    def _evaluate(self, step: int) -> dict[str, float]:
        result = answers.evaluate(self.config, self.programs.count, self.state, self.data.validation, self.mesh)
        self.early.update(step, result["loss"])
        epoch, found = self.clock.epoch(step), {key: result[key] for key in _VALIDATION}
        self.write("validation", {"step": step, "epoch": round(epoch, 4), **found})
        say(
            f"validation at epoch {epoch:.2f}  loss {result['loss']:.4f}  "
            f"accuracy {result['accuracy']:.4f}  macro F1 {result['macro_f1']:.4f}"
        )
        return found

    def _save(self, step: int, validation: dict[str, float] | None) -> None:
        now = time.monotonic()
        self.seconds, self.began = self.seconds + now - self.began, now
        record = {
            "step": step, "examples": self.clock.examples, "seconds": self.seconds,
            "early_stop": dataclasses.asdict(self.early), "validation": validation,
            "config": to_dict(self.config), "classes": list(self.config.data.classes),
            "preprocessing": dataclasses.asdict(self.config.preprocess) | {"image_size": self.config.model.image_size},
        }  # fmt: skip
        self.manager.save(self.state._asdict(), record, accuracy=validation["accuracy"] if validation else None)

    def _ending(self, step: int, interrupted: int) -> str:
        """Why the run ends before this step, or nothing."""
        if interrupted:
            return "interrupted"
        if step == self.clock.total_steps:
            return f"finished after {counted(step, 'step')}"
        if self.early.due:
            return f"stopped early: no lower validation loss in {counted(self.early.patience, 'evaluation')}"
        return ""

    def _write(self, pending: Interval | None) -> None:
        if pending is None:
            return
        record = self.progress.record(pending)
        self.write("train", record)
        for line in self.progress.lines(record):
            say(line)
        if record["nonfinite_in_a_row"] >= self.config.optimizer.max_nonfinite:
            raise TrainingError(
                f"gradients were not finite in the last {counted(record['nonfinite_in_a_row'], 'step')} before step "
                f"{record['step']} ({record['nonfinite']} in all); lower optimizer.learning_rate "
                f"({self.config.optimizer.learning_rate:g}) or set optimizer.clip_norm, with a new --workdir"
            )


def _due(step: int, every: int, total: int) -> bool:
    """Whether something that happens every so many steps, and at the end, happens at this one."""
    return step % every == 0 or step == total


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
