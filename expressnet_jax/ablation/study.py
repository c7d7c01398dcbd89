"""A study on disk: what is compared, in study.json, and the runs, each in a folder with its number; what they became.

OUT/study.json      question, config, arms, seeds, runs          OUT/runs/7/        the folder of run 7
OUT/sweep.txt       the settings of run 7 in line 7 (from 0)     OUT/runs/7.log     what it printed
OUT/report.html     made at the end                              OUT/runs/7.failed  how it failed last
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.common import files
from data_pipelines.common.errors import DataError
from expressnet_jax.ablation import shapes
from expressnet_jax.ablation.sweep import Arm, Settings
from expressnet_jax.config import Config
from expressnet_jax.runs import folder as run_folder
from expressnet_jax.runs import restore

#: What cannot change once runs exist; arms and seeds may be added, and another split evaluated.
_FIXED = ("config", "common")
#: What a plan that was stopped while it was written has left.
_BEGUN = ("study.json.part", ".lock")

STATES = ("done", "failed", "missing", "unfinished", "not evaluated")


class Outcome(NamedTuple):
    """The files of a run at one moment; one that cannot be read keeps none of the others from being read."""

    state: str  # one of STATES; "unfinished": training has begun, and can go on
    why: str | None  # it has failed
    config: Config | DataError  # the error says why there is none
    summary: dict[str, Any]  # of its training; empty before that has ended
    evaluations: dict[Path, dict[str, Any]]  # folder -> summary
    judged: Path | None  # the folder of the evaluation that makes it done
    unreadable: list[str]  # a sentence for each file that is not as it should be


class StudyRun(NamedTuple):
    """One training of a study."""

    number: int
    arm: str
    seed: int


class Study(NamedTuple):
    """What is compared, and where."""

    folder: Path
    name: str
    question: str
    config: str
    common: list[tuple[str, str]]  # settings of all arms
    split: str  # what is evaluated on, as `expressnet evaluate --split` takes it
    baseline: str
    arms: dict[str, Settings]
    left_out: list[dict[str, str]]
    runs: list[StudyRun]

    @property
    def seeds(self) -> list[int]:
        """All seeds, sorted."""
        return sorted({run.seed for run in self.runs})

    def workdir(self, run: StudyRun) -> Path:
        """The folder of a run."""
        return self.folder / "runs" / str(run.number)

    def failure(self, run: StudyRun) -> Path:
        """The file that says how the last try of a run has failed."""
        return self.folder / "runs" / f"{run.number}.failed"

    def outcome(self, run: StudyRun) -> Outcome:
        """What has become of a run."""
        return outcome_of(self.workdir(run), self.split, self.failure(run))

    def outcomes(self) -> list[Outcome]:
        """What has become of its runs, in their order."""
        return [self.outcome(run) for run in self.runs]

    def settings(self, run: StudyRun) -> list[tuple[str, str]]:
        """What `train` is given for a run, as on the command line."""
        return [*self.common, *self.arms[run.arm].items(), ("seed", str(run.seed))]

    def plain(self) -> dict[str, Any]:
        """The plan, ready for JSON."""
        return self._asdict() | {"folder": str(self.folder), "runs": [run._asdict() for run in self.runs]}


def planned(folder: Path, facts: dict[str, Any], arms: list[Arm], left_out: list[dict[str, str]], seeds: int) -> Study:
    """The study of these arms with seeds 0, 1, ...; runs that the folder knows already keep their numbers.

    `facts`: name, question, config, common, split, baseline. Raises DataError where the folder holds another study.
    """
    settings = {arm.name: arm.settings for arm in arms}
    wanted = [(name, seed) for seed in range(seeds) for name in settings]  # seed by seed: each arm has one run early
    known: list[tuple[str, int]] = []
    _refuse_foreign(folder)
    if (folder / "study.json").exists():
        before = read(folder)
        known = [(run.arm, run.seed) for run in before.runs]
        gone = [one for one in known if one not in wanted or before.arms[one[0]] != settings[one[0]]]
        other = [key for key in _FIXED if getattr(before, key) != facts[key]]
        if other or gone:
            what = ", ".join(other) or "no {} with seed {}".format(*gone[0])
            raise DataError(
                f"{folder} holds another study (this one differs in: {what}); arms and seeds can be added, not taken "
                "away: choose another --out"
            )
    both = [*known, *(one for one in wanted if one not in known)]
    runs = [StudyRun(number, *one) for number, one in enumerate(both)]
    return Study(folder, **facts, arms=settings, left_out=left_out, runs=runs)


def _refuse_foreign(folder: Path) -> None:
    """Raises DataError where the folder is somebody's, and not a study's."""
    if (folder / "study.json").exists() or not folder.exists():
        return
    if not folder.is_dir() or any(path.name not in _BEGUN for path in folder.iterdir()):
        raise DataError(f"{folder} is not empty and holds no study; choose another --out")


def check(study: Study, arms: list[Arm]) -> None:
    """Raises DataError where a run that has begun is not of its arm's config: trained by hand with another one, or
    before the study's config file was changed."""
    configs = {arm.name: arm.config for arm in arms}
    for run in study.runs:
        workdir = study.workdir(run)
        if not (workdir / "config.json").exists():
            continue
        config = dataclasses.replace(configs[run.arm], seed=run.seed)
        if changed := run_folder.changes(workdir, restore.expected_config(config, workdir)):
            raise DataError(
                f"{workdir} holds a run of another config than the study's ({'; '.join(changed)}); remove that folder, "
                "or choose another --out"
            )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second `ablate` from planning and running in the same folder. Raises DataError where one does."""
    _refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with files.locked(folder / ".lock", DataError(f"another ablate is at work in {folder}; wait for it, or stop it")):
        yield


def write(study: Study) -> None:
    """Writes study.json, and sweep.txt for arrays of jobs, whose words are split at blanks: lists have none."""
    (study.folder / "runs").mkdir(parents=True, exist_ok=True)
    facts = {key: value for key, value in study.plain().items() if key != "folder"}
    files.write_text(study.folder / "study.json", json.dumps(facts, indent=2) + "\n")
    lines = [" ".join(f"--config.{key}={_word(value)}" for key, value in study.settings(run)) for run in study.runs]
    files.write_text(study.folder / "sweep.txt", "\n".join(lines) + "\n")


def _word(value: str) -> str:
    return "".join(value.split()) if value.startswith(("(", "[")) else value


def read(folder: Path) -> Study:
    """The study of a folder. Raises DataError where there is none, or it cannot be read."""
    path = folder / "study.json"
    try:
        facts = _fitting(path, shapes.STUDY)
        runs = [StudyRun(**{key: run[key] for key in StudyRun._fields}) for run in facts["runs"]]
        if [run.number for run in runs] != list(range(len(runs))):
            raise DataError(f"{path} cannot be read: its runs are not numbered 0, 1, 2, ...")
        if any(name not in facts["arms"] for name in [facts["baseline"], *(run.arm for run in runs)]):
            raise DataError(f"{path} cannot be read: the baseline or the arm of a run is not among the arms")
    except FileNotFoundError:
        how = "give --config and --sweep, or --study"
        raise DataError(f"no study in {folder} (it has no study.json); {how}") from None
    found = {key: facts[key] for key in shapes.STUDY} | {"common": list(map(tuple, facts["common"])), "runs": runs}
    return Study(folder=folder, **found)


def outcome_of(workdir: Path, split: str | None = None, failure: Path | None = None) -> Outcome:
    """The outcome of the run in a folder.

    split: of a study; the run is done once its best checkpoint is evaluated on it, and an evaluation that somebody made
    while it was still being trained does not count. Without a split any evaluation does. failure: the file that says
    how its last try has failed.
    """
    unreadable: list[str] = []
    trained = (workdir / "summary.json").exists()
    paths = ([workdir / "summary.json"] if trained else []) + sorted(workdir.glob("evaluation/*/summary.json"))
    found = {}
    for path in paths:
        try:
            found[path.parent] = _fitting(path, shapes.TRAINING if path.parent == workdir else None)
        except (OSError, DataError) as error:
            unreadable.append(str(error))
    summary, evaluations = found.pop(workdir, {}), found
    try:
        config: Config | DataError = run_folder.read_config(workdir)
    except DataError as error:
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
    if isinstance(config, DataError) and state not in ("failed", "missing"):
        state, why = "failed", str(config)
    return Outcome(state, why, config, summary, evaluations, judged, unreadable)


def _fitting(path: Path, shape: shapes.Shape | None) -> dict[str, Any]:
    """What a JSON file holds. Raises DataError where that is not of the shape; None stands for an evaluation's."""
    found: dict[str, Any] = files.read_json(path)
    if wrong := shapes.evaluation(found) if shape is None else shapes.misfit(found, shape):
        raise DataError(f"{path} cannot be read: {wrong}")
    return found


def _failure(path: Path) -> str | None:
    """Why the last try failed; None where it is not known to have."""
    try:
        why = files.read_json(path)["why"]
    except (OSError, DataError, KeyError, TypeError):
        return None
    return why if isinstance(why, str) else "why cannot be read"


def counts(outcomes: list[Outcome]) -> dict[str, int]:
    """How many runs are planned, and how many are in which state."""
    states = [one.state for one in outcomes]
    return {"planned": len(states)} | {state: states.count(state) for state in STATES}
