"""Runs what is missing of a study, one run after another, each as the commands `train` and `evaluate`.

A run is a process of its own: what kills it (memory, a bug, NaN) is recorded, and the next one starts. Clusters run the
same commands as independent jobs (launch/slurm.sbatch --sweep OUT/sweep.txt); `--evaluate_only` then evaluates them.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.common import files
from data_pipelines.common.errors import DataError
from data_pipelines.common.prose import percent
from data_pipelines.common.text import Progress, json_line, say, span
from expressnet_jax.ablation.study import Outcome, Study, StudyRun
from expressnet_jax.ablation.sweep import Arm
from expressnet_jax.bench import timer
from expressnet_jax.config import files as config_files
from expressnet_jax.models import cost
from expressnet_jax.runs import data as datas
from expressnet_jax.train import loop
from expressnet_jax.train.signals import Interrupted

_STOPPED = (75, 130)  # exit codes of a training that was told to stop


class Pace(NamedTuple):
    """How fast runs are here: a run takes `each` seconds for its start-up and compilation, and its work by `rate`."""

    rate: float  # of the work of `work`, a second
    each: float

    def seconds(self, work: float) -> float:
        """How long a run takes that has so much work."""
        return self.each + work / self.rate


def work(arms: list[Arm], split: str, data_dir: str | None) -> dict[str, float]:
    """What a run of each arm asks for: forward FLOPs of all its training pictures, and of those that it is validated
    and evaluated on as a third, since they have no gradient. Touches no device.

    Raises DataError where the data or the split are not there, or arms would be evaluated on different examples: before
    anything has run.
    """
    sizes: dict[Any, tuple[int, int, int]] = {}  # examples to train on, to validate on, to evaluate on
    found, judged = {}, {}
    for arm in arms:
        data = arm.config.data
        if data not in sizes:
            own = datas.open_data(arm.config, data_dir)
            judged[arm.name] = datas.open_for_evaluation(arm.config, data.name, split, data_dir)
            sizes[data] = own.examples, len(own.validation), len(judged[arm.name])
        examples, validation, evaluated = sizes[data]
        clock = loop.clock_of(arm.config, examples)
        validations = -(-clock.total_steps // clock.steps(arm.config.eval_every, "eval_every"))
        # An evaluation answers mirror images too, also of the validation examples, to which it fits a temperature.
        answered = validations * validation + 2 * (evaluated + validation)
        pictures = clock.total_steps * arm.config.batch_size + answered / 3
        found[arm.name] = float(pictures) * cost.flops_per_image(arm.config)
    (first, its), *others = judged.items()
    for name, one in others:
        if one.name != its.name or not np.array_equal(one.numbers, its.numbers):
            raise DataError(
                f"{first} is evaluated on {its.name}, {name} on {one.name}: not the same examples, so that nothing "
                "could be compared; give --split a split that all have"
            )
    return found


def speed(study: Study) -> Pace | None:
    """The pace by a few timed steps of the baseline; None where they cannot be timed.

    Two processes start for each run, one to train and one to evaluate, and both compile; the evaluation is counted as
    if it compiled as long as the training step. Later runs of an arm find compiled programs in JAX's cache.
    """
    pairs = [*study.common, *study.arms[study.baseline].items()]
    command = ["bench", "step", f"--config={study.config}", "--repeats=3", "--json", *_words(pairs)]
    began = time.monotonic()
    with Progress("timing a step of the baseline", unit=""):
        done = subprocess.run(_command(command), capture_output=True, text=True, check=False)
    spent = time.monotonic() - began
    try:
        found = json.loads(done.stdout)
        images_per_second, compiling = float(found["images_per_second"]), float(found["compile_seconds"])
        start = max(spent - compiling - (timer.WARM_UP + 3) * found["step_ms"]["median"] / 1e3, 0.0)
    except (ValueError, KeyError, TypeError):
        return None
    flops = cost.flops_per_image(config_files.load(study.config, pairs))
    return Pace(images_per_second * flops, 2 * (start + compiling))


def run(
    study: Study, flops: dict[str, float], pace: Pace | None, data_dir: str | None, *, training: bool = True
) -> list[Outcome]:
    """Runs whatever is missing, and returns what has become of all runs. Without `training`, evaluates alone.

    Raises Interrupted after SIGTERM or SIGINT, once the training that was under way has saved its state.
    """
    finished, stepping, other, count = 0.0, 0.0, 0.0, 0  # of the runs that were trained here as a whole
    with _signals() as told:
        for one in study.runs:
            before = study.outcome(one).state
            if before == "done" or not (training or _trained(study, one)):
                continue
            if _busy(study, one):
                say(f"run {one.number} ({one.arm}, seed {one.seed}) is being trained by another process; left to it")
                continue
            began = time.monotonic()
            with Progress(f"[{one.number + 1}/{len(study.runs)}] {one.arm}, seed {one.seed}", unit=""):
                _one(study, one, data_dir, told)
            if told["signal"]:
                raise Interrupted(told["signal"], f"everything saved at run {one.number}")
            found = study.outcome(one)
            if before == "missing" and found.state == "done":
                spent, count = time.monotonic() - began, count + 1
                steps = min(_stepping(found.summary), spent)
                finished, stepping, other = finished + flops[one.arm], stepping + steps, other + spent - steps
                pace = Pace(finished / max(stepping, 1e-9), other / count)
            said = f"accuracy {percent(found.evaluations[found.judged]['accuracy'])}" if found.judged else found.state
            said += f": {found.why}" if found.why else ""
            about = f"[{one.number + 1}/{len(study.runs)}] {one.arm}, seed {one.seed}"
            say(f"{about}: {said}; {left(study, flops, pace)}")
    return study.outcomes()


def left(study: Study, flops: dict[str, float], pace: Pace | None) -> str:
    """How many runs are still to be trained, and how long that and evaluating them will take."""
    waiting = [run for run in study.runs if not _trained(study, run)]
    text = f"{len(waiting)} of {len(study.runs)} to train"
    return f"{text}, about {span(sum(pace.seconds(flops[run.arm]) for run in waiting))}" if pace and waiting else text


def _stepping(summary: dict[str, Any]) -> float:
    """Seconds that a training has spent on its steps and its validations."""
    times = summary.get("times") or {}
    return sum(float(times.get(name, 0.0)) for name in ("steps", "data", "evaluation"))


def _trained(study: Study, run: StudyRun) -> bool:
    return (study.workdir(run) / "summary.json").exists()


def _busy(study: Study, run: StudyRun) -> bool:
    """Whether another process is training it."""
    return files.is_locked(study.workdir(run) / ".lock")


def _one(study: Study, run: StudyRun, data_dir: str | None, told: dict[str, Any]) -> None:
    """Trains and evaluates one run; how it fails is left in its `.failed` file."""
    workdir, failed = study.workdir(run), study.failure(run)
    where = ["--workdir", str(workdir), *(["--data_dir", data_dir] if data_dir else [])]
    commands = [["evaluate", *where, "--split", study.split]]
    if not _trained(study, run):
        commands.insert(0, ["train", f"--config={study.config}", *where, *_words(study.settings(run))])
    log = study.folder / "runs" / f"{run.number}.log"
    failed.unlink(missing_ok=True)
    for command in commands:
        code = _child(command, log, told)
        if told["signal"] or code in _STOPPED:
            told["signal"] = told["signal"] or (signal.SIGTERM if code == 75 else signal.SIGINT)
            return
        if code and _busy(study, run):  # it was begun elsewhere while this one started
            return
        if code:
            why = {"command": command[0], "exit_code": code, "why": _last_words(log, command[0], code)}
            files.write_text(failed, json_line(why))
            return


def _child(command: list[str], log: Path, told: dict[str, Any]) -> int:
    with log.open("a") as file:
        file.write(f"\n$ expressnet {' '.join(command)}\n")
        file.flush()
        # In a session of its own: Ctrl-C comes to this process, which passes it on, and once only.
        told["child"] = subprocess.Popen(
            _command(command), stdout=subprocess.DEVNULL, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True
        )
        if told["signal"]:  # it came just before there was a child
            told["child"].send_signal(told["signal"])
        return int(told["child"].wait())


@contextmanager
def _signals() -> Iterator[dict[str, Any]]:
    """{"signal": the one that asked to stop, or None; "child": the process that it is passed on to}."""
    told: dict[str, Any] = {"signal": None, "child": None}

    def tell(number: int, _: Any) -> None:
        told["signal"] = number
        if told["child"] is not None and told["child"].poll() is None:
            told["child"].send_signal(number)

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "expressnet_jax.cli", *words]


def _words(settings: list[tuple[str, str]]) -> list[str]:
    return [f"--config.{key}={value}" for key, value in settings]


def _last_words(log: Path, command: str, code: int) -> str:
    """The last line that the command printed; of its own errors, without the program's name."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if code < 0:
        return f"{command} was killed by {signal.Signals(-code).name}"
    return lines[-1].removeprefix("expressnet: ")[:500]
