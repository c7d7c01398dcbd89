"""The training loop, from a checked config to a finished run folder.

The order inside the loop is fixed: draw the next batch, evaluate the state if due, save it if due, step, and write the
metrics of an earlier interval. A checkpoint is therefore always {the state before step s, the position s}, with the
validation result of just that state, and an interruption anywhere loses nothing but time.
"""

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines import prepare
from data_pipelines.common import text as texts
from data_pipelines.common.errors import DataError
from data_pipelines.common.files import check_folder, read_object
from data_pipelines.common.text import counted, span
from expressnet_jax.checkpoint.manager import Manager
from expressnet_jax.config import Clock, Config, to_dict
from expressnet_jax.config import files as config_files
from expressnet_jax.evaluation import answers
from expressnet_jax.models import choice, expressnet
from expressnet_jax.moe import dispatch
from expressnet_jax.parallel import distributed
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.parallel.distributed import say
from expressnet_jax.runs import data as datas
from expressnet_jax.runs import folder as run_folder
from expressnet_jax.runs import restore, tracking
from expressnet_jax.runs import state as states
from expressnet_jax.train import divergence
from expressnet_jax.train import step as steps
from expressnet_jax.train import times as timing
from expressnet_jax.train.divergence import Diverged, Divergence, RolledBack
from expressnet_jax.train.early_stop import EarlyStop
from expressnet_jax.train.progress import Interval, Progress
from expressnet_jax.train.signals import Interrupted, Signals, WaitCutShort
from expressnet_jax.train.watchdog import Watchdog

#: Steps that the devices have been given and not ended: one that runs, one that follows at once. JAX would take 32 on a
#: CPU, and so many run between SIGTERM and the save, each with its batch (findings/jax_cpu_stops_32_steps_late.sh).
_AHEAD = 2
_VALIDATION = ("accuracy", "mean_class_accuracy", "macro_f1", "loss")  # what is kept of a validation


def train(config: Config, workdir: Path, *, data_dir: str | None = None, track: str | None = None) -> dict[str, Any]:
    """Trains until `config.total` or an early stop, from the newest checkpoint in `workdir` if there is one.

    `track` is the name of a tracker that is told what metrics.jsonl is.

    Returns the summary that it also leaves in `workdir`. Raises Interrupted at the next step after SIGTERM or SIGINT,
    once the state is saved; Diverged where the loss is lost and `config.recovery` allows no more rolling back.
    """
    times = timing.Times()
    with Signals() as signals, contextlib.ExitStack() as held:
        distributed.agree("config or code", {**config_files.flat(to_dict(config)), "code": distributed.code_digest()})
        with distributed.together():
            tracking.check(track)
            if distributed.is_first():
                check_folder("--workdir", workdir)
            mesh = meshes.create(config)
            chosen = config.data.validation_split
            config = datas.resolved(config, workdir, data_dir)
            data = datas.open_data(config, data_dir)
            for line in datas.remarks(config, data_dir):
                say(line)
            config = restore.expected_config(config, workdir)
            if not (workdir / "config.json").exists():
                restore.initial_model(config)  # what does not fit is said before there is a folder
        clock = clock_of(config, data.examples)
        divergence.check(config, clock)
        _announce(config, data, clock, mesh)
        if chosen != config.data.validation_split == "validation":
            say(f"validating on {data.validation.name}; --config.data.validation_split= holds out a part of train")
        longer = held.enter_context(run_folder.held(workdir, config, clock))
        manager = held.enter_context(Manager(workdir / run_folder.CHECKPOINTS, keep=config.keep))
        held.enter_context(jax.set_mesh(mesh))
        watchdog = held.enter_context(Watchdog(workdir, config.watchdog.seconds, times))
        run = Run(config, data, mesh, clock, manager, workdir, times, watchdog)
        run.track = held.enter_context(tracking.tracked(track, workdir, config))
        start = run.start()
        distributed.agree("state of the run", {"data": data.fingerprint, "step": start})
        with distributed.together():
            if distributed.is_first():
                if start < clock.total_steps:
                    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(run.abstract))
                    run_folder.check_space(workdir, size * max(1, config.keep + 2 - len(manager.steps())))
                run_folder.settle(workdir, config, prepare.root_of(data_dir), longer)
                run_folder.write_parameters(workdir, run.state.params)
        reason = ""
        while not reason:
            with run_folder.metrics(workdir, start, run.early.evaluated_step, run.track) as write, run.shown(start):
                try:
                    reason = run.loop(start, write, signals)
                except Diverged as lost:
                    start = run.roll_back(lost)
        with times.during("saving"):
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

    state: states.State
    sums: steps.Metrics  # of the steps since the last record
    early: EarlyStop
    divergence: Divergence
    rolled_back: RolledBack
    track: tracking.Write
    independent: bool  # seeds of the data's order; runs of before 2026-12 go on as they began

    def __init__(
        self, config: Config, data: datas.TrainingData, mesh: jax.sharding.Mesh, clock: Clock, manager: Manager,
        workdir: Path, times: timing.Times, watchdog: Watchdog,
    ) -> None:  # fmt: skip
        self.config, self.data, self.mesh, self.clock, self.manager = config, data, mesh, clock, manager
        self.workdir, self.times, self.watchdog = workdir, times, watchdog
        self.programs = steps.programs(config, clock, mesh)
        self.abstract = states.abstract(config, self.programs.optimizer, mesh)

    def start(self) -> int:
        """Restores the newest checkpoint, or makes a new state; returns the step to go on from."""
        step, heartbeat = self.manager.latest_step(), read_object(self.workdir / "heartbeat.json")
        if step is None:
            self.times.add(timing.of_restart(heartbeat, {}, self.times.began))
            if trained := max((record["step"] for record in run_folder.read_records(self.workdir)), default=0):
                say(f"this run had come to step {trained}, and there is no checkpoint of it left: it begins again")
            self._begin()
            return 0
        record = self.manager.record(step)
        if record["examples"] != self.clock.examples:
            raise DataError(
                f"this run began with {record['examples']} training examples of {self.config.data.name} and now there "
                f"are {self.clock.examples}; prepare the same data again, or choose another --workdir"
            )
        if record.get("data", self.data.fingerprint) != self.data.fingerprint:
            say(f"note: {self.config.data.name} was prepared anew since this run began, or from something else")
        known = record.get("times") or {"steps": record["seconds"]}  # of a version that knew no more
        self.times.add(known)
        self._restore(step, record)
        if not self._ending(step, 0):  # the time since a run has ended is none of its own
            self.times.add(timing.of_restart(heartbeat, known, self.times.began))
        say(f"going on from step {step} of {self.clock.total_steps}")
        return step

    def loop(self, start: int, write: Callable[[str, dict[str, Any]], None], signals: Signals) -> str:
        """Runs from step `start` to the last one; returns why it ended."""
        total, intervals = self.clock.total_steps, ("eval_every", "save_every", "log_every")
        eval_every, save_every, log_every = (self.clock.steps(getattr(self.config, key), key) for key in intervals)
        self.write, self.progress = write, Progress(self.clock, start, self.times)
        run_step, batches = self.programs.step, self._batches(start)
        pending: Interval | None = None  # the interval before: its sums are ready by now
        sent: deque[steps.Metrics | None] = deque([None] * _AHEAD)  # the sums of the steps that may still run
        self.times.switch("steps")
        for step in range(start, total + 1):
            jax.block_until_ready(sent.popleft())
            self.watchdog.beat(step)
            batch = _drawn(batches, signals) if step < total else None
            interrupted = signals.before_step()  # read once a step: what is skipped for it must also be made up for
            reason = self._ending(step, interrupted)
            # Once for each due step, restarts included; a run asked to stop evaluates when it is started again.
            evaluate = _due(step, eval_every, total) and step > max(0, self.early.evaluated_step) and not interrupted
            if evaluate or (step > start and (reason or _due(step, save_every, total))):
                with self.progress.pause(self.state):
                    self._write(pending)  # now, or a crash after the save would lose it
                    pending = None
                    found = self._evaluate(step) if evaluate else None
                    if interrupted or not self.divergence.bad:  # else it could push out the last good one
                        self._save(step, found)
                reason = self._ending(step, interrupted)
            if interrupted:
                with self.times.during("saving"):
                    self.manager.wait()
                raise Interrupted(interrupted, _saved(step, signals.seconds))
            if reason:
                self.divergence.end(step, self.config)
                return reason
            assert batch is not None
            if step == start:
                run_step = self._compiled(batch)
            self.state, self.sums = run_step(self.state, self.sums, batch)
            sent.append(self.sums)
            if _due(step + 1, log_every, total):
                self._write(pending)
                pending, self.sums = self.progress.watch(step + 1, self.sums), self.programs.zero_sums()
        raise AssertionError("the last step ends the loop")

    def shown(self, start: int) -> texts.Progress:
        """What the first process shows while `loop` runs from step `start`."""
        hidden = not distributed.is_first()
        self.bar = texts.Progress("training", self.clock.total_steps, start, unit="steps", hidden=hidden, own=True)
        return self.bar

    def roll_back(self, lost: Diverged) -> int:
        """Goes back to the newest checkpoint from before the run was lost; returns its step.

        The batches from there to here are left out, and the learning rate is halved where that is asked for. Raises
        `lost` where the config allows no more of it.
        """
        recovery, before = self.config.recovery, self.rolled_back
        if before.times >= recovery.rollbacks:
            distributed.leave_peers()  # they all come to the same end
            raise lost
        here = int(self.state.step)
        back = self.manager.go_back(lost.since)
        if back is None:
            self._begin()
            back = 0
        else:
            self._restore(back, self.manager.record(back))
        self.rolled_back = RolledBack(before.times + 1, before.left_out + here - back)
        self._slow_down()
        with run_folder.metrics(self.workdir, back, self.early.evaluated_step, self.track) as write:
            found = {"step": back, "from": here, "why": lost.why, **vars(self.rolled_back)}
            if {"kind": "rollback", **found} not in run_folder.read_records(self.workdir):  # by a process killed since
                write("rollback", found)
        say(f"{lost.why}: back to step {back}; the batches of {counted(here - back, 'step')} are left out "
            f"({before.times + 1} of recovery.rollbacks={recovery.rollbacks})")  # fmt: skip
        return back

    def summary(self, reason: str) -> dict[str, Any]:
        """What came out of the run, from its best checkpoint."""
        step = self.manager.best_step() or 0
        best, times = self.manager.record(step), self.times.so_far()
        return {
            "result": reason, "data": self.config.data.name, "classes": list(self.config.data.classes),
            "steps": self.clock.total_steps if reason.startswith("finished") else self.early.evaluated_step,
            "best_step": step, "best_epoch": round(self.clock.epoch(step), 2),
            "validation": {key: best["validation"][key] for key in _VALIDATION},
            "training_time": span(sum(times[name] for name in timing.DOING)), "time_went_into": timing.shares(times),
            "times": {name: round(seconds, 1) for name, seconds in times.items()},
            "rollbacks": self.rolled_back.times or None,
            "devices": f"{self.mesh.size} x {jax.devices()[0].device_kind}", "jax": jax.__version__,
        }  # fmt: skip

    def _begin(self) -> None:
        """Makes a new state, of the config's weights where it names some."""
        self.early, self.divergence = EarlyStop(self.config.early_stop.patience), Divergence()
        self.rolled_back, self.independent = RolledBack(), True
        self.state, self.sums = states.init(self.config, self.programs.optimizer, self.mesh), self.programs.zero_sums()
        model, lines = restore.initial_model(self.config)
        if model is not None:
            self.state = restore.from_model(model, self.state)
        for line in lines:
            say(line)

    def _restore(self, step: int, record: dict[str, Any]) -> None:
        """Everything as it was when the checkpoint of this step was saved; the times go on."""
        self.state = states.State(**self.manager.restore(step, self.abstract._asdict()))
        self.early = EarlyStop(**{**record["early_stop"], "patience": self.config.early_stop.patience})
        if self.clock.steps(record["config"]["total"], "total") == step < self.clock.total_steps:
            self.early.waited = 0  # it had finished before it could stop early, and goes on with a larger total
        self.divergence = Divergence(**record.get("divergence", {"since": step}))
        self.rolled_back = RolledBack(**record.get("rolled_back", {}))
        self.independent = record.get("independent_seeds", False)
        self._slow_down()
        self.sums = self.programs.zero_sums()
        if sums := record.get("sums"):  # of the interval that the save has cut
            self.sums = jax.tree.map(_placed, self.sums, {name: sums[name] for name in self.sums})

    def _slow_down(self) -> None:
        """Makes the programs anew where rolling back has halved the learning rate."""
        if self.config.recovery.halve_rate and self.rolled_back.times:
            rate = self.config.optimizer.learning_rate * 0.5**self.rolled_back.times
            optimizer = dataclasses.replace(self.config.optimizer, learning_rate=rate)
            slowed = dataclasses.replace(self.config, optimizer=optimizer)
            self.programs = steps.programs(slowed, self.clock, self.mesh)

    def _batches(self, start: int) -> Iterator[steps.Batch]:
        """Batches on the device, one ahead: the next one crosses the bus while a step runs."""
        first = start + self.rolled_back.left_out
        host_batches = datas.batches(self.config, self.data, first, independent=self.independent)
        ahead: steps.Batch | None = None
        while True:
            with self.progress.waiting():
                host_batch = next(host_batches)
            ready, ahead = ahead, meshes.to_device(self.mesh, host_batch)
            if ready is not None:
                yield ready

    def _compiled(self, batch: steps.Batch) -> Any:
        began = time.monotonic()
        say("compiling the training step")
        hidden = not distributed.is_first()
        self.watchdog.beat(compiling=True)
        with self.times.during("compilation"), texts.Progress("compiling", unit="", hidden=hidden):
            compiled = self.programs.step.lower(self.state, self.sums, batch).compile()
            self.watchdog.beat()
        say(f"compiled in {span(time.monotonic() - began)}")
        self.progress.restart()
        return compiled

    def _evaluate(self, step: int) -> dict[str, float]:
        self.watchdog.beat(compiling=True)  # as the first one may
        with self.times.during("evaluation"):
            result = answers.evaluate(
                self.config, self.programs.count, self.state, self.data.validation, self.mesh, each=self.watchdog.beat
            )
        self.divergence.validation(step, result["loss"], self.config)
        self.early.update(step, result["loss"])
        epoch, found = self.clock.epoch(step), {key: result[key] for key in _VALIDATION}
        silent = {f"{part}/silent": count for part, (count, _) in result["silent"].items()}
        self.write("validation", {"step": step, "epoch": round(epoch, 4), **found, **silent})
        say(
            f"validation at epoch {epoch:.2f}  loss {result['loss']:.4f}  "
            f"accuracy {result['accuracy']:.4f}  macro F1 {result['macro_f1']:.4f}"
        )
        for warning in self.progress.warnings_of_parts(result["silent"]):
            say(warning)
        return found

    def _save(self, step: int, validation: dict[str, float] | None) -> None:
        run_folder.check_there(self.workdir)
        record = {
            "step": step, "examples": self.clock.examples, "data": self.data.fingerprint, "times": self.times.so_far(),
            "early_stop": dataclasses.asdict(self.early), "divergence": dataclasses.asdict(self.divergence),
            "rolled_back": dataclasses.asdict(self.rolled_back), "independent_seeds": self.independent,
            "validation": validation,
            "sums": {name: np.asarray(value).tolist() for name, value in self.sums.items()},
            "config": to_dict(self.config), "classes": list(self.config.data.classes),
            "preprocessing": dataclasses.asdict(self.config.preprocess) | {"image_size": self.config.model.image_size},
        }  # fmt: skip
        with self.times.during("saving"):
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
        line, *warnings = self.progress.lines(record)
        self.bar.at(record["step"], line)
        for warning in warnings:
            say(warning)
        self.divergence.interval(record, self.config)


def _drawn(batches: Iterator[steps.Batch], signals: Signals) -> steps.Batch | None:
    """The next batch; None where a signal came while it was waited for."""
    try:
        with signals.cutting_short():
            return next(batches)
    except WaitCutShort:
        return None


def _saved(step: int, seconds: float) -> str:
    return f"everything saved at step {step}, {seconds:.0f} s after the signal" if step else "nothing to save yet"


def _placed(like: jax.Array, value: Any) -> jax.Array:
    """A recorded value where `like` lies."""
    return jax.device_put(np.asarray(value, like.dtype), like.sharding)


def _due(step: int, every: int, total: int) -> bool:
    """Whether something that happens every so many steps, and at the end, happens at this one."""
    return step % every == 0 or step == total
