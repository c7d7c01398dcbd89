"""Reads the folders of runs, or of a study, into one document: what a page shows and `--json` prints."""

import base64
import dataclasses
import functools
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.common.errors import DataError
from data_pipelines.common.text import json_line, reason, say
from expressnet_jax.ablation import shapes, summary
from expressnet_jax.ablation import study as studies
from expressnet_jax.ablation.study import Outcome, Study
from expressnet_jax.config import PRESETS, Config
from expressnet_jax.config import files as config_files
from expressnet_jax.models import cost
from expressnet_jax.report import paper
from expressnet_jax.runs.folder import read_records

_PICTURED = 3  # runs whose pictures are on the page: of many, they would make it too large to load
_PARTS = 2000  # blocks and layers of experts of a network whose size is counted: each takes its time
_LARGEST = 20_000_000  # bytes of a picture; ours have at most about 2 million
#: Pictures of an evaluation that hold what no table of the page does.
_PICTURES = {
    "predictions.png": "Predictions",
    "surest_moe_cnn.png": "What the experts on CNNFE1 are surest of",
    "surest_moe_expression.png": "What the experts on the fused features are surest of",
    "saliency.png": "What each branch looks at",
    "corruptions.png": "The corruptions at each strength",
}


def document(paths: Sequence[Path], *, against: bool = False, pictures: bool = True) -> dict[str, Any]:
    """The document of some runs, or of one study.

    `against` adds the published figures, `pictures` photographs from the evaluations. What cannot be read of a run is
    left out, and named in `notes`, and so is a folder without a run. Raises DataError where no folder holds a run or a
    study, or a study comes with something else.
    """
    in_study = [path for path in paths if (path / "study.json").exists()]
    if in_study and len(paths) > 1:
        raise DataError(f"{in_study[0]} is a study; it goes on a page of its own, without other folders")
    if in_study:
        study = studies.read(paths[0])
        return of_study(study, study.outcomes(), against=against, pictures=pictures)
    notes: list[str] = []
    runs = _of_folders(paths, pictures, notes)
    title = f"Run: {runs[0]['name']}" if len(runs) == 1 else f"{len(runs)} runs"
    return _document(title, runs, None, notes, against, pictures)


def of_study(study: Study, outcomes: list[Outcome], *, against: bool = False, pictures: bool = True) -> dict[str, Any]:
    """The document of a study whose runs have these outcomes. What is not there, or failed, is said in each run's
    `state` and `why`; `notes` has what else a reader should know."""
    notes: list[str] = []
    done = (n for n, one in enumerate(outcomes) if one.state == "done" and study.runs[n].arm == study.baseline)
    pictured = next(done, None) if pictures else None
    runs = []
    for run, one in zip(study.runs, outcomes, strict=True):
        found = _run(study.workdir(run), f"run {run.number}", one, run.number == pictured, notes)
        runs.append(found | {"arm": run.arm, "seed": run.seed, "settings": study.arms[run.arm]})
    summarized = summary.of(study, runs, outcomes)
    for line in summarized["dropped"]:
        say(line)
    notes += summarized["dropped"]
    if pictured is not None and len(runs) > 1:
        notes.append(f"Pictures of run {pictured} only: the first of the baseline that is done.")
    return _document(f"Study: {study.name}", runs, summarized, notes, against, pictures)


def _document(
    title: str,
    runs: list[dict[str, Any]],
    study: dict[str, Any] | None,
    notes: list[str],
    against: bool,
    pictures: bool,
) -> dict[str, Any]:
    compared = paper.against(runs) if against else None
    if against and compared is None:
        why = "none of these runs is evaluated on a data set that the paper reports on"
        notes = [*notes, f"Not beside the published figures: {why}."]
    if not pictures:
        notes = [*notes, "Photographs were left out of this page on request."]
    report = {"title": title, "runs": runs, "study": study, "against": compared, "notes": notes}
    plain: dict[str, Any] = json.loads(json_line(report))  # what --json prints is what the page shows
    return plain


def _of_folders(paths: Sequence[Path], pictures: bool, notes: list[str]) -> list[dict[str, Any]]:
    """Runs that stand alone, each once."""
    folders = list({os.path.realpath(path): path for path in paths}.values())
    runs, refused = [], []
    for number, (path, name) in enumerate(zip(folders, _names(folders), strict=True)):
        one = studies.outcome_of(path)
        if isinstance(one.config, DataError):
            refused.append(one.config)
            continue
        runs.append(_run(path, name, one, pictures and number < _PICTURED, notes))
        runs[-1] |= {"seed": one.config.seed, "settings": _settings(one.config)}
        notes += [f"{name}: {one.state}"] if one.state != "done" else []
    if refused and not runs:
        raise refused[0]
    for why in refused:
        say(f"left out: {why}")
        notes.append(f"Left out: {why}")
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
    published_data = dataclasses.replace(Config().data, classes=config.data.classes, validation_split="")
    published = Config(model=model, moe=moe, data=published_data)
    changed = config_files.differences(published, config)
    return {key: value.split(" -> ", 1)[1] for key, _, value in (line.partition(": ") for line in changed)}


def _run(path: Path, name: str, found: Outcome, pictures: bool, notes: list[str]) -> dict[str, Any]:
    """What the folder of a run holds; of one without a config that can be read, only its state."""
    run: dict[str, Any] = {
        "name": name, "path": str(path), "arm": None, "seed": None, "state": found.state, "why": found.why,
        "settings": {}, "parameters": None, "flops_per_image": None, "training": None, "evaluations": [],
        "pictures": [],
    }  # fmt: skip
    if isinstance(found.config, DataError):
        return run
    notes += [f"{name}: {why}" for why in found.unreadable]
    shown = found.evaluations.items() if pictures else ()
    return {
        **run,
        **_cost(dataclasses.replace(found.config, seed=0)),
        "training": _training(_records(path, name, notes), found.summary),
        "evaluations": list(found.evaluations.values()),
        "pictures": [picture for folder, one in shown for picture in _pictures(folder, path, one["split"])],
    }


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


def _training(records: dict[str, list[dict[str, Any]]], done: dict[str, Any]) -> dict[str, Any] | None:
    """How a run was trained; None before its first record."""
    if not records["train"]:
        return None
    return {
        "steps": records["train"][-1]["step"],
        **{key: done.get(key) for key in _OF_SUMMARY},
        "images_per_second": float(np.median([record["images_per_second"] for record in records["train"]])),
        **{kind: [[record.get(key) for key in _KEPT[kind]] for record in found] for kind, found in records.items()},
    }


#: Of the summary of a training.
_OF_SUMMARY = ("result", "best_step", "best_epoch", "training_time", "time_went_into", "devices", "jax")
#: Of a record, by its kind.
_KEPT = {"train": ("epoch", "loss", "accuracy"), "validation": ("epoch", "loss", "accuracy", "macro_f1")}


def _records(path: Path, name: str, notes: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The records of each kind."""
    try:
        records = read_records(path)
    except OSError as error:
        notes.append(f"{name}: metrics.jsonl cannot be read: {reason(error, named=error.filename)}")
        records = []
    found = {}
    for kind in _KEPT:
        mine = [(one, shapes.misfit(one, shapes.RECORDS[kind])) for one in records if one["kind"] == kind]
        if wrong := [bad for _, bad in mine if bad]:
            count = f"{len(wrong):,} of {len(mine):,} {kind} records in metrics.jsonl"
            notes.append(f"{name}: {count} cannot be read; of the first, {wrong[0]}")
        found[kind] = [one for one, bad in mine if not bad]
    return found


def _pictures(folder: Path, run: Path, split: str) -> list[dict[str, str]]:
    found = []
    for file, title in _PICTURES.items():
        source = _as_uri(folder / file, run)
        if source is not None:
            found.append({"title": f"{title}: {split}", "alt": f"{title}, from {split}", "src": source})
    return found


def _as_uri(path: Path, folder: Path) -> str | None:
    """The PNG file as a data: URI, "" where something else has its place, and None where nothing has.

    A page is given to others, and a folder may come from a stranger: a link in it, or on the way to it, must not bring
    another file of this machine onto the page, and a pipe must not keep the report waiting.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
            data = file.read(_LARGEST + 1) if inside and stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except FileNotFoundError:
        return None
    except OSError:
        return ""
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or len(data) > _LARGEST:
        return ""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
