"""What has become of a run: its files, read once and checked, as plain values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.common.errors import DataError
from data_pipelines.common.files import read_json
from expressnet_jax.ablation import shapes
from expressnet_jax.ablation.study import Run, Study
from expressnet_jax.config import Config, ConfigError
from expressnet_jax.runs import folder as run_folder

STATES = ("done", "failed", "missing", "unfinished", "not evaluated")


class Outcome(NamedTuple):
    """The files of a run at one moment; one that cannot be read keeps none of the others from being read."""

    state: str  # one of STATES; "unfinished": training has begun, and can go on
    why: str | None  # it has failed
    config: Config | ConfigError  # the error says why there is none
    summary: dict[str, Any]  # of its training; empty before that has ended
    evaluations: dict[Path, dict[str, Any]]  # folder -> summary
    judged: Path | None  # the folder of the evaluation that makes it done
    unreadable: list[str]  # a sentence for each file that is not as it should be


def of(study: Study, run: Run) -> Outcome:
    """The outcome of one run of a study."""
    return read(study.workdir(run), study.split, study.failure(run))


def of_all(study: Study) -> list[Outcome]:
    """The outcomes of its runs, in their order."""
    return [of(study, run) for run in study.runs]


def read(workdir: Path, split: str | None = None, failure: Path | None = None) -> Outcome:
    """The outcome of the run in a folder.

    split: of a study; the run is done once its best checkpoint is evaluated on it, and an evaluation that somebody made
    while it was still being trained does not count. Without a split any evaluation does. failure: the file that says
    how its last try has failed.
    """
    unreadable: list[str] = []
    trained = (workdir / "summary.json").exists()
    summary = _fitting(workdir / "summary.json", shapes.training, unreadable) if trained else {}
    paths = sorted(workdir.glob("evaluation/*/summary.json"))
    made = {path.parent: _fitting(path, shapes.evaluation, unreadable) for path in paths}
    evaluations = {folder: one for folder, one in made.items() if one}
    try:
        config: Config | ConfigError = run_folder.read_config(workdir)
    except ConfigError as error:
        config = error
    best = summary.get("best_step")
    wanted = [
        folder for folder, one in evaluations.items()
        if split is None or (one.get("asked") == split and best is not None and one.get("step") == best)
    ]  # fmt: skip
    judged = wanted[0] if trained and wanted else None
    why = None
    if judged is not None:
        state = "done"
    elif failure is not None and (why := _failure(failure)) is not None:
        state = "failed"
    elif trained:
        state = "not evaluated"
    else:
        state = "unfinished" if (workdir / "config.json").exists() else "missing"
    if isinstance(config, ConfigError) and state not in ("failed", "missing"):
        state, why = "failed", str(config)
    return Outcome(state, why, config, summary, evaluations, judged, unreadable)


def _fitting(path: Path, misfit: Callable[[Any], str | None], unreadable: list[str]) -> dict[str, Any]:
    """What a JSON file holds; empty, and named in `unreadable`, where that is not what `misfit` wants."""
    try:
        found: dict[str, Any] = read_json(path)
        if wrong := misfit(found):
            raise DataError(f"{path} cannot be read: {wrong}")
    except (OSError, DataError) as error:
        unreadable.append(str(error))
        return {}
    return found


def _failure(path: Path) -> str | None:
    """Why the last try failed; None where it is not known to have."""
    try:
        why = read_json(path)["why"]
    except (OSError, DataError, KeyError, TypeError):
        return None
    return why if isinstance(why, str) else "why cannot be read"


def counts(outcomes: list[Outcome]) -> dict[str, int]:
    """How many runs are planned, and how many are in which state."""
    states = [one.state for one in outcomes]
    return {"planned": len(states)} | {state: states.count(state) for state in STATES}
