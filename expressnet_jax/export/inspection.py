"""What a run, a checkpoint or an artifact holds, and how two of them differ."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from data_pipelines.common import prose, tables
from data_pipelines.common.errors import Failure
from data_pipelines.common.files import read_object
from data_pipelines.common.text import counted, shorten
from expressnet_jax.checkpoint.manager import CheckpointError, Manager
from expressnet_jax.config import Config
from expressnet_jax.config import files as config_files
from expressnet_jax.export import artifact
from expressnet_jax.models import canonical, cost
from expressnet_jax.moe import selfcheck as checks
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import folder as run_folder
from expressnet_jax.runs import restore, state
from expressnet_jax.train.times import DOING

_WIDEST = 40  # letters of a setting in a table


class SelfcheckError(Failure):
    """A computation that is wrong on these devices; the message is one line."""


class Model(NamedTuple):
    """Something that holds a network's weights."""

    facts: dict[str, Any]  # ready for JSON
    config: Config
    weights: dict[str, np.ndarray]  # by canonical name


class Trained(NamedTuple):
    """A checkpoint of a run."""

    config: Config
    step: int
    record: dict[str, Any]  # what training wrote into the checkpoint: validation figures, examples, classes
    kind: str  # "ema": weights averaged over steps; "raw": those of the step
    weights: dict[str, np.ndarray]  # by canonical name


def read_run(workdir: Path, step: int | None = None, *, ema: bool = True) -> Trained:
    """The best checkpoint of the run in `workdir`, or the one of `step`; averaged weights where it has them, if `ema`.

    Raises DataError where there is no run, CheckpointError where there is no such checkpoint.
    """
    config = run_folder.read_config(workdir)
    restored, step = restore.restore_best(config, workdir, meshes.for_evaluation(config), step=step)
    with Manager(workdir / run_folder.CHECKPOINTS, read_only=True) as manager:
        record = manager.record(step)
    if record["classes"] != list(config.data.classes):
        raise CheckpointError(f"checkpoint {step} of {workdir} has other classes than its config.json")
    kind = "ema" if ema and restored.ema else "raw"
    arrays = state.weights(restored) if kind == "ema" else (restored.params, restored.batch_stats)
    return Trained(config, step, record, kind, canonical.to_canonical(nnx.merge(state.graph(config), *arrays)))


def of_path(path: Path) -> Model:
    """`models.cost.of_config` of an artifact, a run (its best checkpoint) or one checkpoint (RUN/checkpoints/STEP).

    Also `kind`, `path`, `step`, `classes`, `preprocessing`, `trained` (how), `training_seconds` (of a run that is
    done), `validation` and the weight `digest`.
    """
    facts: dict[str, Any]
    if "format" in read_object(path / artifact.CONFIG):
        read = artifact.read(path)
        config, weights = read.config, read.weights
        facts = {"kind": "artifact", "step": read.meta["step"], "validation": read.meta["run"].get("validation")}
    else:  # what is no run either is said by reading it as one
        at, checkpoint = path.absolute(), path.absolute().parent.name == "checkpoints" and path.name.isdecimal()
        found = read_run(at.parent.parent, int(at.name)) if checkpoint else read_run(path)
        config, weights = found.config, found.weights
        kind = "checkpoint" if checkpoint else "run"
        facts = {"kind": kind, "step": found.step, "validation": found.record["validation"]}
    optimizer, ema = config.optimizer, f", EMA {config.ema.decay:g}" if config.ema.decay else ""
    facts |= {
        "path": str(path),
        "training_seconds": _seconds(path) if facts["kind"] == "run" else None,
        "preprocessing": artifact.preprocessing(config),
        "trained": f"{config.data.name}, at most {config.total} in batches of {config.batch_size}, {optimizer.name} at "
        f"{optimizer.learning_rate:g} ({config.schedule.name}){ema}, seed {config.seed}",
        "digest": canonical.digest(weights),
    }
    return Model(cost.of_config(config) | facts, config, weights)


def _seconds(workdir: Path) -> float | None:
    """What the training of a run has taken, restarts not counted; None where it is not done."""
    times = read_object(workdir / "summary.json").get("times")
    spent = [times.get(name) for name in DOING] if isinstance(times, dict) else []
    known = [float(seconds) for seconds in spent if isinstance(seconds, (int, float))]
    return sum(known) if len(known) == len(DOING) else None


def compare(a: Model, b: Model) -> dict[str, Any]:
    """What differs between two networks.

    Returns `settings`, `same_weights`, `largest_difference` by part, and arrays by name: `only_in_first` and
    `only_in_second`, and in `different_shapes` those of both, with both shapes.
    """
    both = sorted(set(a.weights) & set(b.weights))
    shapes = {name: (a.weights[name].shape, b.weights[name].shape) for name in both}
    parts: dict[str, float] = {}
    for name in (name for name in both if len(set(shapes[name])) == 1):
        difference = float(np.max(np.abs(a.weights[name] - b.weights[name]), initial=0.0))
        part = name.split("/")[0]
        parts[part] = max(parts.get(part, 0.0), difference)
    return {
        "settings": config_files.differences(a.config, b.config),
        "same_weights": a.facts["digest"] == b.facts["digest"],
        "largest_difference": parts,
        "only_in_first": sorted(set(a.weights) - set(b.weights)),
        "only_in_second": sorted(set(b.weights) - set(a.weights)),
        "different_shapes": {name: list(map(list, pair)) for name, pair in shapes.items() if len(set(pair)) == 2},
    }


def selfcheck(config: Config, say: Callable[[str], None]) -> dict[str, Any]:
    """Checks each movement of the config's experts against `dense` on its mesh, and says a table of the differences.

    Returns `mesh` and the rows as `movements`. Raises SelfcheckError where one is off.
    """
    mesh = meshes.create(config)
    rows = checks.check(config.moe, mesh, d=config.model.fuse_width, b=8 * mesh.size)
    say(checks.describe(rows, mesh))
    off = [f"{row['implementation']} in {row['dtype']}" for row in rows if not row["passed"]]
    if off:
        raise SelfcheckError(f"{', '.join(off)} differ from dense by more than rounding on these devices")
    return {"mesh": dict(mesh.shape), "platform": mesh.devices.flat[0].platform, "movements": rows}


def describe(found: dict[str, Any]) -> str:
    """The findings for a person."""
    own = found.get("preprocessing", {})
    used = {key: value for key, value in own.items() if own["normalize"] == "standard" or key not in ("mean", "std")}
    return prose.filled(__file__, "inspection.txt.j2", found=found, preprocessing=used)


def describe_both(first: dict[str, Any], second: dict[str, Any], found: dict[str, Any]) -> str:
    """The facts of two networks side by side, the settings that differ, and what `compare` found of their weights."""
    about = [_about(first), _about(second)]
    rows = [[name, *(one.get(name, "-") for one in about)] for name in dict.fromkeys([*about[0], *about[1]])]
    settings = [line.partition(": ") for line in found["settings"]]
    rows += [[key, *(_setting(key, value) for value in values.split(" -> ", 1))] for key, _, values in settings]
    same = counted(len(settings), "setting differs", "settings differ")
    both = "\n".join(tables.aligned([["", "first", "second"], *rows]))
    return f"{both}\n{same}\n{prose.filled(__file__, 'difference.txt.j2', found=found)}"


def _about(facts: dict[str, Any]) -> dict[str, str]:
    """The facts of a network in words, by name."""
    trained, figures = facts["training_seconds"], facts["validation"] or {}
    return {
        "path": facts["path"], "kind": facts["kind"], "step": str(facts["step"]),
        **{f"validation {name}": f"{value:.4f}" if name == "loss" else prose.percent(value)
           for name, value in ((name.replace("_", " "), value) for name, value in figures.items())},
        **({} if trained is None else {"training time": f"{trained:,.0f} s"}),
        "parameters": f"{facts['parameters']:,}", **{f"  {part}": f"{size:,}" for part, size in facts["parts"].items()},
        "forward pass": f"{facts['flops_per_image'] / 1e9:.3f} GFLOP an image", "classes": str(len(facts["classes"])),
        "weights": facts["digest"][:12],
    }  # fmt: skip


def _setting(key: str, value: str) -> str:
    """A setting's value, which was written for Python, in short."""
    try:
        number = float(value)
    except ValueError:
        return shorten(value.strip("'"), _WIDEST)
    if value.lstrip("-").isdigit():  # whole: a seed is no approximate number
        return value
    return f"{number:g}{' s' if key.endswith('seconds') else ''}"
