"""All that an export or an inspection needs to know of a run, read once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from data_pipelines import prepare
from data_pipelines.common.errors import DataError
from data_pipelines.common.text import json_line
from expressnet_jax.checkpoint.manager import CheckpointError, Manager
from expressnet_jax.config import Config
from expressnet_jax.models import canonical
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import folder as run_folder
from expressnet_jax.runs import restore, state

_FIGURES = ("split", "accuracy", "accuracy_interval", "mean_class_accuracy", "macro_f1", "examples", "per_class")
_SUMMARY = ("result", "steps", "best_step", "best_epoch", "training_time", "devices", "jax")


class Trained(NamedTuple):
    """A checkpoint of a run."""

    config: Config
    step: int
    record: dict[str, Any]  # what training wrote into the checkpoint: validation figures, examples, classes
    kind: str  # "ema": weights averaged over steps; "raw": those of the step
    weights: dict[str, np.ndarray]  # by canonical name


def read(workdir: Path, step: int | None = None, *, ema: bool = True) -> Trained:
    """The best checkpoint of the run in `workdir`, or the one of `step`; averaged weights where it has them, if `ema`.

    Raises ConfigError where there is no run, CheckpointError where there is no such checkpoint.
    """
    config = run_folder.read_config(workdir)
    restored, step = restore.restore_best(config, workdir, meshes.for_evaluation(config), step=step)
    with Manager(workdir / "checkpoints", read_only=True) as manager:
        record = manager.record(step)
    if record["classes"] != list(config.data.classes):
        raise CheckpointError(f"checkpoint {step} of {workdir} has other classes than its config.json")
    kind = "ema" if ema and restored.ema else "raw"
    arrays = state.weights(restored) if kind == "ema" else (restored.params, restored.batch_stats)
    return Trained(config, step, record, kind, canonical.to_canonical(nnx.merge(state.graph(config), *arrays)))


def facts(found: Trained, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """What is known of a checkpoint and its run, ready for JSON: `run` in config.json. None where something is not."""
    summary = _json(workdir / "summary.json")
    config, evaluations = found.config, [_json(path) for path in sorted(workdir.glob("evaluation/*/summary.json"))]
    evaluated = found.kind == "ema" or not config.ema.decay  # all figures of a run are of its averaged weights, if any
    evaluations = [one for one in evaluations if evaluated and one.get("step") == found.step]
    known = {
        "name": workdir.absolute().name,
        "seed": config.seed,
        **{key: summary.get(key) for key in _SUMMARY},
        "training_examples": found.record.get("examples"),
        "validation": found.record.get("validation") if evaluated else None,
        "evaluations": [{key: one[key] for key in _FIGURES} for one in evaluations if set(_FIGURES) <= set(one)],
        "data": _data(config, data_dir),
        "started_from": {
            key: value for key, value in dataclasses.asdict(config.init).items() if isinstance(value, str) and value
        },
    }
    return json.loads(json_line(known))  # NaN has become null


def _data(config: Config, data_dir: str | None) -> dict[str, Any]:
    data = config.data
    held_out = f"{data.validation_fraction:g} of {data.train_split}, held out ({data.holdout})"
    found = {"name": data.name, "also": data.also, "validation": data.validation_split or held_out}
    try:
        metadata = prepare.read_info(data.name, data_dir).info.metadata
    except DataError:
        return found | {"unknown": "the data set was not prepared on the machine that exported this"}
    return found | {
        **{key: metadata[key] for key in ("layout", "protocol", "counts", "notes")},
        "skipped": len(metadata["skipped"]),
        "faces": (metadata["faces"] or {}).get("detector", ""),
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
