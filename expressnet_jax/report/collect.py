"""Reads the folders of runs, or of a study, into one document: what a page shows and `--json` prints."""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expressnet_jax import config_files, inspection
from expressnet_jax.ablation import study as studies
from expressnet_jax.ablation import summary
from expressnet_jax.ablation.study import Study
from expressnet_jax.config import PRESETS, Config, ConfigError
from expressnet_jax.report import paper
from expressnet_jax.train import hooks, run_folder

Say = Callable[[str], None]
_PICTURED = 3  # runs whose pictures are on the page: of many, they would make it too large to load
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

    `against` adds the published figures, `pictures` photographs from the evaluations. Raises ConfigError where a folder
    holds neither a run nor a study, or a study comes with something else.
    """
    in_study = [path for path in paths if (path / "study.json").exists()]
    if in_study and len(paths) > 1:
        raise ConfigError(f"{in_study[0]} is a study; it goes on a page of its own, without other folders")
    if in_study:
        study = studies.read(paths[0])
        found, runs = of_study(study, pictures, say)
        title = f"Study: {study.name}"
    else:
        found, runs = None, [_of_folder(path, pictures and number < _PICTURED) for number, path in enumerate(paths)]
        title = f"Run: {runs[0]['name']}" if len(runs) == 1 else f"{len(runs)} runs"
    notes = _notes(runs, found, pictures)
    compared = paper.against(runs) if against else None
    if against and compared is None:
        raise ConfigError("--against paper: none of these runs is evaluated on a data set that the paper reports on")
    report = {"title": title, "runs": runs, "study": found, "against": compared, "notes": notes}
    plain: dict[str, Any] = json.loads(run_folder.json_line(report))  # what --json prints is what the page shows
    return plain


def of_study(study: Study, pictures: bool, say: Say) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The study and its runs. What is not there, or failed, is said in each run's `state` and `why`."""
    runs = []
    pictured = next((run for run in study.runs if run.arm == study.baseline and _is_done(study, run)), None)
    for run in study.runs:
        state, why = studies.state(study, run)
        found = _run(study.workdir(run), f"run {run.number}", pictures and run == pictured)
        found |= {"arm": run.arm, "seed": run.seed, "state": state, "why": why, "settings": study.arms[run.arm]}
        runs.append(found)
    return summary.of(study, runs, say), runs


def plan(study: Study) -> dict[str, Any]:
    """A study that has not run yet, ready for JSON."""
    return study._asdict() | {"folder": str(study.folder), "runs": [run._asdict() for run in study.runs]}


def _is_done(study: Study, run: studies.Run) -> bool:
    return studies.state(study, run)[0] == "done"


def _of_folder(path: Path, pictures: bool) -> dict[str, Any]:
    """A run that stands alone."""
    config = run_folder.read_config(path)
    found = _run(path, path.name, pictures)
    trained = (path / "summary.json").exists()
    state = ("done" if found["evaluations"] else "not evaluated") if trained else "unfinished"
    return found | {"state": state, "seed": config.seed, "settings": _settings(config)}


def _settings(config: Config) -> dict[str, Any]:
    """What differs from the published recipe at the config's size."""
    model, moe = PRESETS[config.model.preset]
    published = Config(model=model, moe=moe, data=dataclasses.replace(Config().data, classes=config.data.classes))
    changed = config_files.differences(published, config)
    return {key: value.split(" -> ", 1)[1] for key, _, value in (line.partition(": ") for line in changed)}


def _run(path: Path, name: str, pictures: bool) -> dict[str, Any]:
    """What the folder of a run holds; a run that has not begun has nothing."""
    found: dict[str, Any] = {
        "name": name, "path": str(path), "arm": None, "seed": None, "state": "missing", "why": None, "settings": {},
        "parameters": None, "flops_per_image": None, "training": None, "evaluations": [], "pictures": [],
    }  # fmt: skip
    try:
        config = run_folder.read_config(path)
    except ConfigError:
        return found
    cost = _cost(dataclasses.replace(config, seed=0))
    found |= {key: cost[key] for key in ("parameters", "flops_per_image")}
    evaluations = studies.evaluations(path)
    if pictures:
        found["pictures"] = [picture for one in evaluations for picture in _pictures(Path(one["folder"]), one["split"])]
    found["evaluations"] = [{key: value for key, value in one.items() if key != "folder"} for one in evaluations]
    return found | {"training": _training(path)}


@functools.lru_cache(maxsize=64)
def _cost(config: Config) -> dict[str, Any]:
    return inspection.of_config(config)


def _training(path: Path) -> dict[str, Any] | None:
    """How a run was trained; None before its first record."""
    records = hooks.read_records(path)
    train = [record for record in records if record["kind"] == "train"]
    validation = [record for record in records if record["kind"] == "validation"]
    if not train:
        return None
    try:
        done = run_folder.read_summary(path)
    except ConfigError:
        done = {}
    kept = train[:: max(1, len(train) // 400)]  # a chart has no more pixels
    return {
        "steps": train[-1]["step"],
        **{key: done.get(key) for key in ("result", "best_step", "best_epoch", "training_time", "devices", "jax")},
        "images_per_second": float(np.median([record["images_per_second"] for record in train])),
        "train": [[record[key] for key in ("epoch", "loss", "accuracy")] for record in kept],
        "validation": [[record[key] for key in ("epoch", "loss", "accuracy", "macro_f1")] for record in validation],
    }


def _pictures(folder: Path, split: str) -> list[dict[str, str]]:
    found = []
    for file, title in _PICTURES.items():
        try:
            data = (folder / file).read_bytes()
        except OSError:
            continue
        source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        found.append({"title": f"{title}: {split}", "alt": f"{title}, from {split}", "src": source})
    return found


def _notes(runs: list[dict[str, Any]], study: dict[str, Any] | None, pictures: bool) -> list[str]:
    notes = [f"{run['name']}: {run['state']}{': ' + run['why'] if run['why'] else ''}"
             for run in runs if run["state"] != "done" and study is None]  # fmt: skip
    if study and (dropped := study["dropped"]):
        notes += dropped
    if not pictures:
        notes.append("Photographs were left out of this page on request.")
    return notes
