"""Reads the folders of runs, or of a study, into one document: what a page shows and `--json` prints."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.common.text import json_line
from expressnet_jax.ablation import study as studies
from expressnet_jax.ablation import summary
from expressnet_jax.ablation.study import Study
from expressnet_jax.config import PRESETS, Config, ConfigError
from expressnet_jax.config import files as config_files
from expressnet_jax.models import cost
from expressnet_jax.report import paper, picture_files, shapes
from expressnet_jax.runs import folder as run_folder
from expressnet_jax.runs.records import read_records

Say = Callable[[str], None]
_PICTURED = 3  # runs whose pictures are on the page: of many, they would make it too large to load
_PARTS = 2000  # blocks and layers of experts of a network whose size is counted: each takes its time
#: Pictures of an evaluation that hold what no table of the page does.
_PICTURES = {
    "predictions.png": "Predictions",
    "surest_moe_cnn.png": "What the experts on CNNFE1 are surest of",
    "surest_moe_expression.png": "What the experts on the fused features are surest of",
    "saliency.png": "What each branch looks at",
    "corruptions.png": "The corruptions at each strength",
}


def document(paths: Sequence[Path], *, against: bool = False, pictures: bool = True, say: Say) -> dict[str, Any]:
    """The document of some runs, or of one study.

    `against` adds the published figures, `pictures` photographs from the evaluations. What cannot be read of a run is
    left out, and named in `notes`. Raises ConfigError where a folder holds neither a run nor a study, or a study comes
    with something else.
    """
    in_study = [path for path in paths if (path / "study.json").exists()]
    if in_study and len(paths) > 1:
        raise ConfigError(f"{in_study[0]} is a study; it goes on a page of its own, without other folders")
    notes: list[str] = []
    if in_study:
        study = _study(paths[0])
        found, runs = of_study(study, pictures, say, notes)
        title = f"Study: {study.name}"
    else:
        found, runs = None, _of_folders(paths, pictures, notes)
        title = f"Run: {runs[0]['name']}" if len(runs) == 1 else f"{len(runs)} runs"
    compared = paper.against(runs) if against else None
    if against and compared is None:
        raise ConfigError("--against paper: none of these runs is evaluated on a data set that the paper reports on")
    if not pictures:
        notes.append("Photographs were left out of this page on request.")
    report = {"title": title, "runs": runs, "study": found, "against": compared, "notes": notes}
    plain: dict[str, Any] = json.loads(json_line(report))  # what --json prints is what the page shows
    return plain


def _study(folder: Path) -> Study:
    study = studies.read(folder)
    if [run.number for run in study.runs] != list(range(len(study.runs))):
        raise ConfigError(f"{folder / 'study.json'} cannot be read: its runs are not numbered 0, 1, 2, ...")
    return study


def of_study(study: Study, pictures: bool, say: Say, notes: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The study and its runs. What is not there, or failed, is said in each run's `state` and `why`; `notes` gets what
    else a reader should know."""
    runs = []
    baseline = [run for run in study.runs if run.arm == study.baseline] if pictures else []
    pictured = next((run for run in baseline if studies.state(study, run)[0] == "done"), None)
    for run in study.runs:
        found = _run(study.workdir(run), f"run {run.number}", run == pictured, notes)
        state, why = _state(study, run, found)
        found |= {"arm": run.arm, "seed": run.seed, "state": state, "why": why, "settings": study.arms[run.arm]}
        runs.append(found)
    summarized = summary.of(study, runs, say)
    notes += summarized["dropped"]
    if pictured is not None and len(runs) > 1:
        notes.append(f"Pictures of run {pictured.number} only: the first of the baseline that is done.")
    return summarized, runs


def _state(study: Study, run: studies.Run, found: dict[str, Any]) -> tuple[str, str | None]:
    """What has become of a run: of one that is there and cannot be read, that it has failed."""
    state, why = studies.state(study, run)
    if state not in ("missing", "failed") and found["why"]:
        return "failed", found["why"]
    if state == "done" and not any(one.get("asked") == study.split for one in found["evaluations"]):
        return "failed", "its evaluation cannot be read; evaluate it again"
    return state, why if why is None or isinstance(why, str) else "why cannot be read"


def plan(study: Study) -> dict[str, Any]:
    """A study that has not run yet, ready for JSON."""
    return study._asdict() | {"folder": str(study.folder), "runs": [run._asdict() for run in study.runs]}


def _of_folders(paths: Sequence[Path], pictures: bool, notes: list[str]) -> list[dict[str, Any]]:
    """Runs that stand alone, each once."""
    folders = list({os.path.realpath(path): path for path in paths}.values())
    runs = []
    for number, (path, name) in enumerate(zip(folders, _names(folders), strict=True)):
        config = run_folder.read_config(path)
        found = _run(path, name, pictures and number < _PICTURED, notes)
        trained = (path / "summary.json").exists()
        state = ("done" if found["evaluations"] else "not evaluated") if trained else "unfinished"
        notes += [f"{name}: {state}"] if state != "done" else []
        runs.append(found | {"state": state, "seed": config.seed, "settings": _settings(config)})
    if pictures and len(runs) > _PICTURED:
        notes.append(f"Pictures of the first {_PICTURED} runs only.")
    return runs


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names, with as many of the folders above as tell them apart."""
    parts = [Path(os.path.realpath(folder)).parts for folder in folders]
    names = []
    for one in parts:
        lengths = range(1, len(one))
        length = next((n for n in lengths if sum(other[-n:] == one[-n:] for other in parts) == 1), len(one))
        names.append(str(Path(*one[-length:])))
    return names


def _settings(config: Config) -> dict[str, Any]:
    """What differs from the published recipe at the config's size."""
    model, moe = PRESETS[config.model.preset]
    published = Config(model=model, moe=moe, data=dataclasses.replace(Config().data, classes=config.data.classes))
    changed = config_files.differences(published, config)
    return {key: value.split(" -> ", 1)[1] for key, _, value in (line.partition(": ") for line in changed)}


def _run(path: Path, name: str, pictures: bool, notes: list[str]) -> dict[str, Any]:
    """What the folder of a run holds; of one without a config that can be read, only `why`."""
    found: dict[str, Any] = {
        "name": name, "path": str(path), "arm": None, "seed": None, "state": "missing", "why": None, "settings": {},
        "parameters": None, "flops_per_image": None, "training": None, "evaluations": [], "pictures": [],
    }  # fmt: skip
    try:
        config = run_folder.read_config(path)
    except ConfigError as error:
        return found | {"why": str(error)}
    for folder, one in _evaluations(path, name, notes):
        found["evaluations"].append(one)
        found["pictures"] += _pictures(folder, path, one["split"]) if pictures else []
    return found | _cost(dataclasses.replace(config, seed=0)) | {"training": _training(path, name, notes)}


def _evaluations(path: Path, name: str, notes: list[str]) -> list[tuple[Path, dict[str, Any]]]:
    """The evaluations of a run, each with its folder."""
    found = [(Path(one.pop("folder")), one) for one in studies.evaluations(path)]
    unread = {file.parent for file in path.glob("evaluation/*/summary.json")} - {folder for folder, _ in found}
    wrong = dict.fromkeys(unread, "it is no JSON object")
    wrong |= {folder: misfit for folder, one in found if (misfit := shapes.evaluation(one))}
    for folder, why in sorted(wrong.items()):
        notes.append(f"{name}: {folder.relative_to(path) / 'summary.json'} cannot be read: {why}")
    return [(folder, one) for folder, one in found if folder not in wrong]


@functools.lru_cache(maxsize=64)
def _cost(config: Config) -> dict[str, Any]:
    """The network's size; null for sizes that no network can have."""
    keys = ("parameters", "flops_per_image")
    try:
        large = sum(config.model.resnet.blocks) + config.moe.num_experts * config.moe.layers > _PARTS
        found = {} if large else cost.of_config(config)
    except (ArithmeticError, MemoryError, TypeError, ValueError):  # all of them say that no array can be so large
        found = {}
    return {key: found.get(key) for key in keys}


def _training(path: Path, name: str, notes: list[str]) -> dict[str, Any] | None:
    """How a run was trained; None before its first record."""
    records = _records(path, name, notes)
    if not records["train"]:
        return None
    done = _summary(path, name, notes)
    return {
        "steps": records["train"][-1]["step"],
        **{key: done.get(key) for key in ("result", "best_step", "best_epoch", "training_time", "devices", "jax")},
        "images_per_second": float(np.median([record["images_per_second"] for record in records["train"]])),
        **{kind: [[record.get(key) for key in _KEPT[kind]] for record in found] for kind, found in records.items()},
    }


#: Of a record, by its kind.
_KEPT = {"train": ("epoch", "loss", "accuracy"), "validation": ("epoch", "loss", "accuracy", "macro_f1")}


def _records(path: Path, name: str, notes: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The records of each kind."""
    try:
        records = read_records(path)
    except OSError as error:
        notes.append(f"{name}: metrics.jsonl cannot be read: {error.strerror or error}")
        records = []
    found = {}
    for kind in _KEPT:
        mine = [(one, shapes.misfit(one, shapes.RECORDS[kind])) for one in records if one["kind"] == kind]
        if wrong := [bad for _, bad in mine if bad]:
            count = f"{len(wrong):,} of {len(mine):,} {kind} records in metrics.jsonl"
            notes.append(f"{name}: {count} cannot be read; of the first, {wrong[0]}")
        found[kind] = [one for one, bad in mine if not bad]
    return found


def _summary(path: Path, name: str, notes: list[str]) -> dict[str, Any]:
    """The summary of a training; nothing where it has not ended."""
    try:
        done = run_folder.read_summary(path)
    except ConfigError as error:
        notes += [f"{name}: {error}"] if (path / "summary.json").exists() else []
        return {}
    if wrong := shapes.misfit(done, shapes.SUMMARY):
        notes.append(f"{name}: summary.json cannot be read: {wrong}")
        return {}
    return done


def _pictures(folder: Path, run: Path, split: str) -> list[dict[str, str]]:
    found = []
    for file, title in _PICTURES.items():
        source = picture_files.as_uri(folder / file, run)
        if source is not None:
            found.append({"title": f"{title}: {split}", "alt": f"{title}, from {split}", "src": source})
    return found
