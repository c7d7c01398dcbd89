"""A study on disk: study.json with what is compared, a run's folder a number in runs/, and what has become of each.

OUT/study.json      question, config, arms, seeds, runs          OUT/runs/7/        the folder of run 7
OUT/sweep.txt       the settings of run 7 in line 7 (from 0)     OUT/runs/7.log     what it printed
OUT/report.html, report.json      made at the end                OUT/runs/7.failed  how it failed last
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any, NamedTuple

from expressnet_jax.ablation.sweep import Arm, Settings
from expressnet_jax.config import ConfigError
from expressnet_jax.train import run_folder

#: What cannot change once runs exist; arms and seeds may be added.
_FIXED = ("config", "common", "split")


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
    if before is None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} is not empty and holds no study; choose another --out")
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


def _numbered(wanted: list[tuple[str, int]]) -> list[Run]:
    return [Run(number, name, seed) for number, (name, seed) in enumerate(wanted)]


def write(study: Study) -> None:
    """Writes study.json, and sweep.txt for arrays of jobs, whose words are split at blanks: lists have none."""
    (study.folder / "runs").mkdir(parents=True, exist_ok=True)
    facts = study._asdict() | {"folder": None, "runs": [run._asdict() for run in study.runs]}
    del facts["folder"]
    run_folder.write_text(study.folder / "study.json", json.dumps(facts, indent=2) + "\n")
    lines = [" ".join(f"--config.{key}={_word(value)}" for key, value in study.settings(run)) for run in study.runs]
    run_folder.write_text(study.folder / "sweep.txt", "\n".join(lines) + "\n")


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
        if any(run.arm not in study.arms for run in runs):
            raise ValueError("a run's arm is not among the arms")
        return study
    except FileNotFoundError:
        how = "give --config and --sweep, or --study"
        raise ConfigError(f"no study in {folder} (it has no study.json); {how}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def state(study: Study, run: Run) -> tuple[str, str | None]:
    """What has become of a run, with the reason where it failed.

    "done" (trained and evaluated), "not evaluated", "unfinished" (training has begun, and can go on), "failed" (its
    last try), "missing".
    """
    workdir = study.workdir(run)
    if evaluation(workdir, study.split) is not None:
        return "done", None
    try:
        return "failed", json.loads(failure(study, run).read_text())["why"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if (workdir / "summary.json").exists():
        return "not evaluated", None
    return ("unfinished" if (workdir / "config.json").exists() else "missing"), None


def evaluation(workdir: Path, split: str) -> dict[str, Any] | None:
    """The run's evaluation that `evaluate --split SPLIT` has left, if it is there and whole."""
    return next((found for found in evaluations(workdir) if found.get("asked") == split), None)


def evaluations(workdir: Path) -> list[dict[str, Any]]:
    """All evaluations in the folder of a run that can be read; `folder` says where each lies."""
    found = []
    for path in sorted(workdir.glob("evaluation/*/summary.json")):
        try:
            summary = json.loads(path.read_text())
            found.append({**summary, "folder": str(path.parent)})
        except (OSError, ValueError, TypeError):
            continue  # half of one, or another's: as if it were not there
    return found


def failure(study: Study, run: Run) -> Path:
    """The file that says how a run failed."""
    return study.folder / "runs" / f"{run.number}.failed"


def busy(workdir: Path) -> bool:
    """Whether another process is training in the folder."""
    try:
        with (workdir / ".lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False
