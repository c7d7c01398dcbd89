"""`expressnet export`: from a run's checkpoint to an artifact, completely or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import numpy as np
from flax import nnx

import expressnet_jax
from data_pipelines.common.errors import DataError
from data_pipelines.common.text import json_line, say, span
from data_pipelines.splits import Split
from expressnet_jax.checkpoint.manager import Manager
from expressnet_jax.config import Config, ConfigError, to_dict
from expressnet_jax.export import artifact, compare, model_card, onnx_format, quantize, savedmodel, stablehlo
from expressnet_jax.export import safetensors_format as safetensors
from expressnet_jax.export.artifact import CARD, CONFIG, WEIGHTS, ArtifactError
from expressnet_jax.models import canonical
from expressnet_jax.parallel import mesh as meshes
from expressnet_jax.runs import data as datas
from expressnet_jax.runs import folder as run_folder
from expressnet_jax.runs import restore
from expressnet_jax.runs import state as states

FORMATS = ("safetensors", "stablehlo", "onnx", "savedmodel")
QUANTIZED = ("float16", "int8")
_GRAPHS = {"stablehlo": "model.stablehlo", "onnx": "model.onnx", "savedmodel": "saved_model"}
_CALIBRATION = 128  # pictures that int8 takes its ranges from


class _Counts(NamedTuple):
    """How many real pictures are looked at: minutes at most."""

    compared: int
    measured: int  # for the accuracy in lower precision


_SMALL, _LARGE = _Counts(256, 2000), _Counts(16, 128)  # of networks up to 64 pixels, and of larger ones


class _Checkpoint(NamedTuple):
    config: Config
    step: int
    record: dict[str, Any]
    kind: str  # ema, raw
    weights: dict[str, np.ndarray]  # by canonical name


class _Data(NamedTuple):
    train: Split
    validation: Split


def export(
    workdir: Path, formats: Sequence[str], out: Path, *, weights: str | int = "best", ema: bool = True,
    dtype: str = "float32", quantize: str | None = None, data_dir: str | None = None, overwrite: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Writes the artifact `out` from a checkpoint of the run in `workdir`, and compares each graph with it.

    Args:
        workdir: the folder of a run.
        formats: of FORMATS; the safetensors file is always written.
        out: the artifact's folder; it may not exist, unless it is an artifact and `overwrite` is set.
        weights: "best", or the step of a checkpoint.
        ema: the weights averaged over steps, where the run has them; else the ones of the last step.
        dtype: of the stored weights, float32 or bfloat16. Graphs get the rounded values, and compute in float32.
        quantize: of QUANTIZED; a further ONNX file in lower precision, with its measured differences.
        data_dir: where data sets live; real pictures are compared where the run's data set is there.
        overwrite: whether `out` may replace an artifact.

    Returns what `--json` prints. Raises ConfigError for a wrong request, ArtifactError where a graph answers
    differently, CheckpointError; nothing is written then.
    """
    formats = _checked(formats, dtype, quantize)
    _check_target(out, overwrite)
    began = time.monotonic()
    found = _restore(workdir, weights, ema)
    data = _open_data(found.config, data_dir, quantize)
    stored = safetensors.rounded(found.weights, dtype)
    config = compare.plain(found.config)
    say(f"{found.kind} weights of step {found.step}: asking the checkpoint for its answers")
    model = artifact.filled(config, stored)
    real = None if data is None else _some(data.validation, _counts(config).compared)
    batches = compare.batches(compare.Reference(config, model), real)
    meta = _described(found, config, stored, dtype) | {
        "run": _facts(found, workdir, data_dir),
        "rounding": _rounding(config, found.weights, batches) if dtype != "float32" else 0.0,
        "real_pictures": 0 if real is None else len(real),
    }
    meta["faces"] = meta["run"]["data"].get("faces")
    meta["stored"] = None if data is None else list(data.train.shape)  # (H, W, C) of what the network was trained on
    with _staged(out) as folder:
        safetensors.write(folder / WEIGHTS, stored, dtype, artifact.about_weights(found.config))
        meta["compared"] = {
            name: _graph(name, folder / _GRAPHS[name], config, model, stored, batches)
            for name in formats
            if name in _GRAPHS
        }
        meta["quantized"] = _quantized(quantize, folder, config, stored, batches, data) if quantize else {}
        _finish(folder, meta)
    say(f"exported to {out} in {span(time.monotonic() - began)}")
    keys = ("step", "weights", "dtype", "digest", "classes", "compared", "quantized", "rounding", "real_pictures")
    sizes = {name: (out / name).stat().st_size for name in meta["files"]}
    return {"artifact": str(out), "workdir": str(workdir), "files": sizes, **{key: meta[key] for key in keys}}


def _checked(formats: Sequence[str], dtype: str, quantize: str | None) -> list[str]:
    """The formats in their own order, once each; raises ConfigError before anything is read."""
    for given, known, option in ((formats, FORMATS, "--formats"), ([dtype], tuple(safetensors.DTYPES), "--dtype")):
        if unknown := [name for name in given if name not in known]:
            raise ConfigError(f"{option}: no {', '.join(map(repr, unknown))}; one of {', '.join(known)}")
    if quantize is not None and quantize not in QUANTIZED:
        raise ConfigError(f"--quantize: no {quantize!r}; one of {', '.join(QUANTIZED)}")
    if quantize and "onnx" not in formats:
        raise ConfigError(f"--quantize {quantize} makes a second ONNX file; add onnx to --formats")
    if "onnx" in formats:
        onnx_format.require()
    if "savedmodel" in formats:
        savedmodel.require()
    return [name for name in FORMATS if name in formats]


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        artifact.read_meta(out)
    except ArtifactError as error:
        raise ConfigError(f"{out} is there already and is no artifact ({error}); choose another --out") from None
    if not overwrite:
        raise ConfigError(f"{out} holds an artifact already; add --overwrite to replace it, or choose another --out")


def _restore(workdir: Path, weights: str | int, ema: bool) -> _Checkpoint:
    if weights != "best" and not str(weights).isdecimal():
        raise ConfigError(f"--weights {weights!r} is neither best nor the step of a checkpoint")
    config = run_folder.read_config(workdir)
    step = None if weights == "best" else int(weights)
    restored, step = restore.restore_best(config, workdir, meshes.for_evaluation(config), step=step)
    with Manager(workdir / "checkpoints", read_only=True) as manager:
        record = manager.record(step)
    kind = "ema" if ema and restored.ema else "raw"
    arrays = states.weights(restored) if kind == "ema" else (restored.params, restored.batch_stats)
    named = canonical.to_canonical(nnx.merge(states.graph(config), *arrays))
    if bad := [name for name, value in named.items() if not np.isfinite(value).all()]:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise ArtifactError(f"checkpoint {step} of {workdir} has values that are not finite, in {bad[0]}{more}")
    # Folders of this machine concern nobody else.
    init = dataclasses.asdict(config.init)
    names: dict[str, Any] = {key: Path(value).name for key, value in init.items() if isinstance(value, str) and value}
    config = dataclasses.replace(config, init=dataclasses.replace(config.init, **names))
    return _Checkpoint(config, step, record, kind, named)


def _open_data(config: Config, data_dir: str | None, quantize: str | None) -> _Data | None:
    """The run's data set, for real pictures; None, said, where it is not there."""
    try:
        opened = datas.open_data(config, data_dir)
    except DataError as error:
        if quantize == "int8":
            raise ConfigError(f"--quantize int8 takes its ranges from the training pictures: {error}") from None
        say(f"only random pictures are compared: {error}")
        return None
    return _Data(opened.train, opened.validation)


def _counts(config: Config) -> _Counts:
    return _SMALL if config.model.image_size <= 64 else _LARGE


def _some(split: Split, count: int) -> np.ndarray:
    """(n, H, W, C) uint8: pictures spread evenly over a split."""
    return split.load(np.linspace(0, len(split) - 1, min(count, len(split))).astype(int))["image"]


def _described(found: _Checkpoint, config: Config, stored: dict[str, np.ndarray], dtype: str) -> dict[str, Any]:
    """What config.json says of the network and its weights."""
    return {
        "format": artifact.FORMAT,
        "config": to_dict(found.config),
        "classes": list(config.data.classes),
        "preprocessing": artifact.preprocessing(config),
        "input": "images: uint8 (batch, height, width, 3), RGB, any batch size, height and width, in every graph",
        "outputs": list(artifact.outputs(config)),
        "step": found.step,
        "weights": found.kind,
        "dtype": dtype,
        "digest": canonical.digest(stored),
        "made_with": {"expressnet_jax": expressnet_jax.__version__, "jax": jax.__version__, "flax": flax.__version__},
    }


def _facts(found: _Checkpoint, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    # Through JSON, where NaN becomes null.
    facts = model_card.facts(found.config, workdir, found.record, found.step, found.kind, data_dir)
    return json.loads(json_line(facts))


def _rounding(config: Config, weights: dict[str, np.ndarray], batches: list[compare.Batch]) -> float:
    """By how much the rounded weights change probabilities at most."""
    unrounded = compare.Reference(config, artifact.filled(config, weights))
    return compare.measure(lambda images: unrounded(images).answers, batches)["largest_difference"]


def _graph(
    name: str, path: Path, config: Config, model: nnx.Module, weights: dict[str, np.ndarray],
    batches: list[compare.Batch],
) -> dict[str, Any]:  # fmt: skip
    """Writes one graph, loads it again and compares it; returns what `compare.check` does."""
    say(f"{name}: writing")
    if name == "stablehlo":
        stablehlo.write(path, config, model)
    elif name == "onnx":
        onnx_format.write(path, config, weights)
    else:
        savedmodel.write(path, config, weights)
    say(f"{name}: loading it again, {sum(len(batch.images) for batch in batches)} pictures")
    load = {"stablehlo": stablehlo.load, "onnx": onnx_format.load, "savedmodel": savedmodel.load}[name]
    found = compare.check(name, load(path), batches)
    say(f"{name}: probabilities differ by at most {found['largest_difference']['probabilities']:.2g}")
    return found


def _quantized(
    precision: str, folder: Path, config: Config, weights: dict[str, np.ndarray], batches: list[compare.Batch],
    data: _Data | None,
) -> dict[str, Any]:  # fmt: skip
    """A further ONNX file in lower precision, and how far it is from the checkpoint."""
    say(f"{precision}: writing")
    path = folder / f"model.{precision}.onnx"
    if precision == "float16":
        onnx_format.write(path, config, weights, dtype="float16")
    else:
        assert data is not None
        quantize.write(folder / _GRAPHS["onnx"], path, compare.in_colour(_some(data.train, _CALIBRATION)))
    run = onnx_format.load(path)
    found = compare.measure(run, batches[-1:])  # real pictures, where there are any
    found["accuracy"] = None
    if data is not None:
        say(f"{precision}: accuracy on the validation split")
        most, float32 = _counts(config).measured, onnx_format.load(folder / _GRAPHS["onnx"])
        before, examples = compare.accuracy(float32, data.validation, most)
        after, _ = compare.accuracy(run, data.validation, most)
        found["accuracy"] = {"float32": before, "quantized": after, "examples": examples}
        say(f"{precision}: accuracy {100 * after:.2f} %, in float32 {100 * before:.2f} %, on {examples} pictures")
    say(f"{precision}: probabilities differ by at most {found['largest_difference']:.2g}")
    return {path.name: found}


def _finish(folder: Path, meta: dict[str, Any]) -> None:
    """The card, then config.json with the checksums of all other files; then all of it is read as a user's would be."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    meta["files"] = {path.relative_to(folder).as_posix(): artifact.checksum(path) for path in files}
    sizes = {name: (folder / name).stat().st_size for name in meta["files"]}
    (folder / CARD).write_text(model_card.text(meta, sizes, tuple(meta["outputs"])))
    (folder / CONFIG).write_text(json.dumps(meta, indent=2, allow_nan=False) + "\n")
    artifact.read(folder)


@contextlib.contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place at the end, and is gone after a failure."""
    part = out.absolute().with_name(f".{out.absolute().name}.part")
    part.mkdir(parents=True, exist_ok=True)
    with (part / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another process is exporting to {out}; wait for it, or choose another --out") from None
        folder = part / "artifact"
        shutil.rmtree(folder, ignore_errors=True)  # of an export that was killed
        try:
            folder.mkdir()
            yield folder
            _replace(folder, out.absolute(), aside=part / "replaced")
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _replace(new: Path, out: Path, *, aside: Path) -> None:
    if not out.exists():
        os.rename(new, out)
        return
    os.rename(out, aside)
    try:
        os.rename(new, out)
    except OSError:
        os.rename(aside, out)
        raise
