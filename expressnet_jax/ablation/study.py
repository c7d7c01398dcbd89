"""A study on disk: study.json with what is compared, a run's folder a number in runs/, and what has become of each.

OUT/study.json      question, config, arms, seeds, runs          OUT/runs/7/        the folder of run 7
OUT/sweep.txt       the settings of run 7 in line 7 (from 0)     OUT/runs/7.log     what it printed
OUT/report.html     made at the end                              OUT/runs/7.failed  how it failed last
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.common.files import write_text
from expressnet_jax.ablation.sweep import Arm, Settings
from expressnet_jax.config import ConfigError
from expressnet_jax.runs import folder as run_folder
from expressnet_jax.runs import restore

#: What cannot change once runs exist; arms and seeds may be added, and another split evaluated.
_FIXED = ("config", "common")
#: What a plan that was stopped while it was written has left.
_BEGUN = ("study.json.part", ".lock")


class Run(NamedTuple):
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
    runs: list[Run]

    @property
    def seeds(self) -> list[int]:
        """All seeds, sorted."""
        return sorted({run.seed for run in self.runs})

    def workdir(self, run: Run) -> Path:
        """The folder of a run."""
        return self.folder / "runs" / str(run.number)

    def settings(self, run: Run) -> list[tuple[str, str]]:
        """What `train` is given for a run, as on the command line."""
        return [*self.common, *self.arms[run.arm].items(), ("seed", str(run.seed))]


def planned(folder: Path, facts: dict[str, Any], arms: list[Arm], left_out: list[dict[str, str]], seeds: int) -> Study:
    """The study of these arms with seeds 0, 1, ...; runs that the folder knows already keep their numbers.

    `facts`: name, question, config, common, split, baseline. Raises ConfigError where the folder holds another study.
    """
    settings = {arm.name: arm.settings for arm in arms}
    before = read(folder) if (folder / "study.json").exists() else None
    wanted = [(name, seed) for seed in range(seeds) for name in settings]  # seed by seed: each arm has one run early
    _refuse_foreign(folder)
    if before is None:
        return Study(folder, **facts, arms=settings, left_out=left_out, runs=_numbered(wanted))
    other = [key for key in _FIXED if getattr(before, key) != facts[key]]
    gone = [
        run for run in before.runs if (run.arm, run.seed) not in wanted or before.arms[run.arm] != settings[run.arm]
    ]
    if other or gone:
        what = ", ".join(other) or f"no {gone[0].arm} with seed {gone[0].seed}"
        raise ConfigError(
            f"{folder} holds another study (this one differs in: {what}); arms and seeds can be added, not taken away: "
            "choose another --out"
        )
    known = [(run.arm, run.seed) for run in before.runs]
    runs = _numbered([*known, *(one for one in wanted if one not in known)])
    return Study(folder, **facts, arms=settings, left_out=left_out, runs=runs)


def _refuse_foreign(folder: Path) -> None:
    """Raises ConfigError where the folder is somebody's, and not a study's."""
    if (folder / "study.json").exists() or not folder.exists():
        return
    if not folder.is_dir() or any(path.name not in _BEGUN for path in folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no study; choose another --out")


def _numbered(wanted: list[tuple[str, int]]) -> list[Run]:
    return [Run(number, name, seed) for number, (name, seed) in enumerate(wanted)]


def check(study: Study, arms: list[Arm]) -> None:
    """Raises ConfigError where a run that has begun is not of its arm's config: trained by hand with another one, or
    before the study's config file was changed."""
    configs = {arm.name: arm.config for arm in arms}
    for run in study.runs:
        workdir = study.workdir(run)
        if not (workdir / "config.json").exists():
            continue
        config = dataclasses.replace(configs[run.arm], seed=run.seed)
        if changed := run_folder.changes(workdir, restore.expected_config(config, workdir)):
            raise ConfigError(
                f"{workdir} holds a run of another config than the study's ({'; '.join(changed)}); remove that folder, "
                "or choose another --out"
            )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps a second `ablate` from planning and running in the same folder. Raises ConfigError where one does."""
    _refuse_foreign(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with run_folder.locked(folder, "another ablate is at work"):
        yield


def write(study: Study) -> None:
    """Writes study.json, and sweep.txt for arrays of jobs, whose words are split at blanks: lists have none."""
    study.folder.mkdir(parents=True, exist_ok=True)
    facts = study._asdict() | {"folder": None, "runs": [run._asdict() for run in study.runs]}
    del facts["folder"]
    write_text(study.folder / "study.json", json.dumps(facts, indent=2) + "\n")
    (study.folder / "runs").mkdir(exist_ok=True)
    lines = [" ".join(f"--config.{key}={_word(value)}" for key, value in study.settings(run)) for run in study.runs]
    write_text(study.folder / "sweep.txt", "\n".join(lines) + "\n")


def _word(value: str) -> str:
    return "".join(value.split()) if value.startswith(("(", "[")) else value


def read(folder: Path) -> Study:
    """The study of a folder. Raises ConfigError where there is none, or it cannot be read."""
    path = folder / "study.json"
    try:
        facts = json.loads(path.read_text())
        runs = [Run(int(run["number"]), str(run["arm"]), int(run["seed"])) for run in facts.pop("runs")]
        common = [(str(key), str(value)) for key, value in facts.pop("common")]
        study = Study(folder=folder, runs=runs, common=common, **facts)
        pairs = [(key, value) for settings in study.arms.values() for key, value in settings.items()]
        left_out = [(one["arm"], one["why"]) for one in study.left_out]
        texts = [study.name, study.question, study.config, study.split, study.baseline]
        if not all(isinstance(text, str) for text in itertools.chain(texts, *pairs, *left_out)):
            raise ValueError("a name or a setting is no text")
        if any(name not in study.arms for name in [study.baseline, *(run.arm for run in runs)]):
            raise ValueError("an arm is not among the arms")
        return study
    except FileNotFoundError:
        how = "give --config and --sweep, or --study"
        raise ConfigError(f"no study in {folder} (it has no study.json); {how}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def state(study: Study, run: Run) -> tuple[str, str | None]:
    """What has become of a run, with the reason where it failed.

    "done" (trained and evaluated), "not evaluated", "unfinished" (training has begun, and can go on), "failed" (its
    last try), "missing".
    """
    workdir = study.workdir(run)
    if evaluation(study, run) is not None:
        return "done", None
    try:
        return "failed", json.loads(failure(study, run).read_text())["why"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    if (workdir / "summary.json").exists():
        return "not evaluated", None
    return ("unfinished" if (workdir / "config.json").exists() else "missing"), None


def evaluation(study: Study, run: Run) -> dict[str, Any] | None:
    """What `evaluate --split SPLIT` has left of the run's best checkpoint, if training has ended and it is there and
    whole. One that somebody made while the run was still being trained is not it."""
    workdir = study.workdir(run)
    try:
        best = run_folder.read_summary(workdir)["best_step"]
    except (ConfigError, KeyError, TypeError, RecursionError):
        return None
    made = [one for one in evaluations(workdir) if one.get("asked") == study.split and one.get("step") == best]
    return made[0] if made else None


def evaluations(workdir: Path) -> list[dict[str, Any]]:
    """All evaluations in the folder of a run that can be read; `folder` says where each lies."""
    found = []
    for path in sorted(workdir.glob("evaluation/*/summary.json")):
        try:
            summary = json.loads(path.read_text())
            found.append({**summary, "folder": str(path.parent)})
        except (OSError, ValueError, TypeError, RecursionError):
            continue  # half of one, or another's: as if it were not there
    return found


def failure(study: Study, run: Run) -> Path:
    """The file that says how a run failed."""
    return study.folder / "runs" / f"{run.number}.failed"


def busy(workdir: Path) -> bool:
    """Whether another process is training in the folder."""
    try:
        with (workdir / ".lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two may look at the same moment
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False
