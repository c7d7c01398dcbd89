"""`expressnet export`: from a run's checkpoint to an artifact, completely or not at all.

The run is read once (`inspection.read_run`); what was read goes down to the formats, and none of them looks for more.
"""

import contextlib
import dataclasses
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

from data_pipelines import prepare
from data_pipelines.common.errors import DataError
from data_pipelines.common.files import check_folder, locked, read_object, replace_folder
from data_pipelines.common.text import counted, json_line, say, some, span
from data_pipelines.splits import Split
from expressnet_jax.checkpoint import digests
from expressnet_jax.config import Config, ConfigError, to_dict
from expressnet_jax.evaluation import depth
from expressnet_jax.export import (
    artifact,
    compare,
    inspection,
    model_card,
    onnx_format,
    savedmodel,
    stablehlo,
    web,
)
from expressnet_jax.export.artifact import CARD, CONFIG, WEIGHTS, ArtifactError
from expressnet_jax.models import canonical
from expressnet_jax.runs import folder as run_folder
from expressnet_jax.runs.data import TrainingData, open_data
from expressnet_jax.version import __version__

FORMATS = ("safetensors", "stablehlo", "onnx", "savedmodel", "web")
QUANTIZED = ("float16", "int8")
_GRAPHS: dict[str, tuple[Any, str]] = {
    "stablehlo": (stablehlo, "model.stablehlo"), "onnx": (onnx_format, "model.onnx"),
    "savedmodel": (savedmodel, "saved_model"), "web": (onnx_format, "web/model.onnx"),
}  # fmt: skip
_CALIBRATION = 128  # pictures that int8 takes its ranges from
_KEYS = (
    *("step", "weights", "dtype", "digest", "classes", "calibration", "compared", "quantized", "rounding"),
    "real_pictures",
)

_FIGURES = ("split", "accuracy", "accuracy_interval", "mean_class_accuracy", "macro_f1", "examples", "per_class")
_SUMMARY = ("result", "steps", "best_step", "best_epoch", "training_time", "devices", "jax")


class _Network(NamedTuple):
    """What goes down to the formats: all that a graph is made of, and what it is compared with."""

    config: Config  # of what every graph computes
    weights: dict[str, np.ndarray]  # by canonical name, float32, rounded as they are stored
    batches: list[compare.Batch]  # pictures and the checkpoint's answers; the last are real ones, if there are any


def export(
    workdir: Path, formats: Sequence[str], out: Path, *, step: int | None = None, ema: bool = True,
    dtype: str = "float32", quantize: str | None = None, data_dir: str | None = None, overwrite: bool = False,
    calibrated: bool = True, onnxruntime_web: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Writes the artifact `out` from a checkpoint of the run in `workdir`, and compares each graph with it.

    Args:
        workdir: the folder of a run.
        formats: of FORMATS; the safetensors file is always written.
        out: the artifact's folder; it may not exist, unless it is an artifact and `overwrite` is set.
        step: of a checkpoint; None: the best one.
        ema: the weights averaged over steps, where the run has them; else the ones of the last step.
        dtype: of the stored weights, float32 or bfloat16. Graphs get the rounded values, and compute in float32.
        quantize: of QUANTIZED; a further ONNX file in lower precision, with its measured differences.
        data_dir: where data sets live, if not where the run had them; real pictures are compared where its own is.
        overwrite: whether `out` may replace an artifact.
        calibrated: whether the head is divided by the temperature that the held-out examples ask for, where they are.
        onnxruntime_web: for the format web, the package that brings its runtime; see `web.runtime`.

    Returns what `--json` prints. Raises ConfigError for a wrong request, ArtifactError where a graph answers
    differently, CheckpointError; nothing is written then.
    """
    formats = _checked(formats, dtype, quantize)
    out = out.absolute()  # the folder that we are in may be the one that is replaced
    _check_target(out, overwrite)
    runtime = web.runtime(onnxruntime_web) if "web" in formats else {}
    began = time.monotonic()
    found = _read(workdir, step, ema)
    data, data_dir = _open_data(found.config, workdir, data_dir, quantize)
    say(f"{found.kind} weights of step {found.step}: asking the checkpoint for its answers")
    found, temperature = _calibrated(found, data) if calibrated and data else (found, None)
    network = _network(found, dtype, data)
    meta = _described(found, network, dtype, data) | {"run": facts(found, workdir, data_dir)}
    meta["calibration"] = temperature
    if temperature and meta["run"]["validation"]:  # its loss is that of other probabilities
        meta["run"]["validation"] = {key: value for key, value in meta["run"]["validation"].items() if key != "loss"}
    meta["faces"] = meta["run"]["data"].get("faces")
    with _staged(out) as folder:
        artifact.write_weights(folder / WEIGHTS, network.weights, dtype, artifact.about_weights(found.config))
        meta["compared"] = {name: _graph(name, folder, network) for name in formats if name in _GRAPHS}
        meta["quantized"] = _quantized(quantize, folder, network, data) if quantize else {}
        if "web" in formats:
            web.write(folder / "web", meta, runtime, model_card.NETWORKS[found.config.model.network])
        _finish(folder, meta)
    say(f"exported in {span(time.monotonic() - began)}")
    sizes = {name: (out / name).stat().st_size for name in meta["files"]}
    return {"artifact": str(out), "workdir": str(workdir), "files": sizes, **{key: meta[key] for key in _KEYS}}


def _checked(formats: Sequence[str], dtype: str, quantize: str | None) -> list[str]:
    """The formats in their own order, once each; raises ConfigError before anything is read."""
    options = {
        "--formats": (formats, FORMATS), "--dtype": ([dtype], artifact.DTYPES),
        "--quantize": ([] if quantize is None else [quantize], QUANTIZED),
    }  # fmt: skip
    for option, (given, known) in options.items():
        if unknown := [name for name in given if name not in known]:
            raise ConfigError(f"{option}: no {', '.join(map(repr, unknown))}; one of {', '.join(known)}")
    if quantize and "onnx" not in formats:
        raise ConfigError(f"--quantize {quantize} makes a second ONNX file; add onnx to --formats")
    for name in formats:
        if name in ("onnx", "savedmodel", "web"):
            _GRAPHS[name][0].require()
    return [name for name in FORMATS if name in formats]


def _check_target(out: Path, overwrite: bool) -> None:
    check_folder("--out", out.parent)
    if os.path.ismount(out):
        raise DataError(f"{out} is a disk of its own, which cannot be replaced as a whole; choose a folder in it")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        artifact.read_meta(out)
    except ArtifactError:
        raise DataError(
            f"{out} is there already and is no artifact, so it is not replaced; choose another --out"
        ) from None
    if not overwrite:
        raise DataError(f"{out} holds an artifact already; add --overwrite to replace it, or choose another --out")


def _read(workdir: Path, step: int | None, ema: bool) -> inspection.Trained:
    """The checkpoint; its config names the files that training started from without this machine's folders."""
    found = inspection.read_run(workdir, step, ema=ema)
    if bad := [name for name, value in found.weights.items() if not np.isfinite(value).all()]:
        raise ArtifactError(f"checkpoint {found.step} of {workdir} has values that are not finite, in {some(bad)}")
    init = dataclasses.asdict(found.config.init)
    names: dict[str, Any] = {key: Path(value).name for key, value in init.items() if isinstance(value, str) and value}
    config = dataclasses.replace(found.config, init=dataclasses.replace(found.config.init, **names))
    return found._replace(config=config)


def _open_data(
    config: Config, workdir: Path, data_dir: str | None, quantize: str | None
) -> tuple[TrainingData | None, str | None]:
    """The run's data set, for real pictures, and where it is; None, and a line for the user, where it is not there."""
    try:
        data_dir = run_folder.data_dir(workdir, data_dir)
        return open_data(config, data_dir), data_dir
    except DataError as error:
        if quantize == "int8":
            raise DataError(f"--quantize int8 takes its ranges from the training pictures: {error}") from None
        say(f"only random pictures are compared: {error}")
        return None, data_dir


def _calibrated(found: inspection.Trained, data: TrainingData) -> tuple[inspection.Trained, dict[str, Any] | None]:
    """The checkpoint with its head divided by a temperature T, so that all who use its weights get softmax(logits / T),
    and what config.json says of T. Unchanged, and None, where no T between the bounds is the best, or the T that makes
    the held-out examples the likeliest makes their calibration error larger."""
    config, split = compare.plain(found.config), data.validation
    examples = split.load(split.spread(_counts(config)[1]))
    logits = compare.Reference(config, found.weights)(examples["image"]).answers["logits"]
    if wrong := int((~np.isfinite(logits)).any(1).sum()):
        where = f"{wrong} of {len(logits)} examples of {split.name}"
        raise ArtifactError(f"the answers of checkpoint {found.step} to {where} are not finite: nothing to export")
    logits = np.where(split.known, logits, -np.inf)
    temperature = depth.fit_temperature(logits, examples["label"])
    if not depth.LOWEST < temperature < depth.HIGHEST:
        say(f"not calibrated: no temperature from {depth.LOWEST:g} to {depth.HIGHEST:g} suits the held-out examples")
        return found, None
    before, after = (depth.scores(logits, examples["label"], t)["ece"] for t in (1.0, temperature))
    change = f"calibration error {100 * before:.2f} % -> {100 * after:.2f} %"
    if after >= before:
        say(f"not calibrated: temperature {temperature:.3g}, the likeliest, would not help: {change}")
        return found, None
    say(f"calibrated at temperature {temperature:.3g}: {change}")
    head = {name: value / np.float32(temperature) for name, value in found.weights.items() if name.startswith("head/")}
    about = {"temperature": temperature, "split": split.name, "examples": len(logits)}
    return found._replace(weights=found.weights | head), about | {"ece": {"before": before, "after": after}}


def _network(found: inspection.Trained, dtype: str, data: TrainingData | None) -> _Network:
    config, weights = compare.plain(found.config), artifact.rounded(found.weights, dtype)
    real = None if data is None else _pictures(data.validation, _counts(config)[0])
    return _Network(config, weights, compare.batches(compare.Reference(config, weights), real))


def _pictures(split: Split, count: int) -> np.ndarray:
    """(n, H, W, C) uint8: at most `count`."""
    return split.load(split.spread(count))["image"]


def _counts(config: Config) -> tuple[int, int]:
    """How many real pictures graphs are compared on; and how many, at most, a temperature is fitted on and lower
    precision is measured on: minutes at most."""
    return (256, 3000) if config.model.image_size <= 64 else (16, 500)


def _described(found: inspection.Trained, network: _Network, dtype: str, data: TrainingData | None) -> dict[str, Any]:
    """What config.json says of the network and its weights."""
    config = network.config
    return {
        "format": artifact.FORMAT, "config": to_dict(found.config), "classes": list(config.data.classes),
        "preprocessing": artifact.preprocessing(config),
        "input": "images: uint8 (batch, height, width, 3), RGB, any batch size, height and width, in every graph",
        "outputs": list(artifact.outputs(config)),
        "step": found.step, "weights": found.kind, "dtype": dtype, "digest": canonical.digest(network.weights),
        "made_with": {"expressnet_jax": __version__, "jax": jax.__version__, "flax": flax.__version__},
        "rounding": _rounding(network, found.weights) if dtype != "float32" else 0.0,
        "real_pictures": 0 if data is None else len(network.batches[-1].images),
        # (H, W, C) of what the network was trained on
        "stored": None if data is None else list(data.train.shape),
    }  # fmt: skip


def _rounding(network: _Network, weights: dict[str, np.ndarray]) -> float:
    """By how much the rounded weights change probabilities at most."""
    unrounded = compare.Reference(network.config, weights)
    return compare.measure(lambda images: unrounded(images).answers, network.batches)["largest_difference"]


def _graph(name: str, folder: Path, network: _Network) -> dict[str, Any]:
    """Writes one graph, loads it again and compares it; returns what `compare.check` does."""
    module, file = _GRAPHS[name]
    say(f"{name}: writing")
    (folder / file).parent.mkdir(exist_ok=True)
    module.write(folder / file, network.config, network.weights)
    pictures = sum(len(batch.images) for batch in network.batches)
    say(f"{name}: loading it again, {counted(pictures, 'picture')}")
    try:
        found = compare.check(name, module.load(folder / file), network.batches)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; nothing was exported") from None
    say(f"{name}: probabilities differ by at most {found['largest_difference']['probabilities']:.2g}")
    return found


def _quantized(precision: str, folder: Path, network: _Network, data: TrainingData | None) -> dict[str, Any]:
    """A further ONNX file in lower precision, and how far it is from the checkpoint."""
    say(f"{precision}: writing")
    path, full = folder / f"model.{precision}.onnx", folder / _GRAPHS["onnx"][1]
    if precision == "float16":
        onnx_format.write(path, network.config, network.weights, dtype="float16")
    else:
        assert data is not None
        onnx_format.quantize(full, path, compare.in_colour(_pictures(data.train, _CALIBRATION)))
    run = onnx_format.load(path)
    found = compare.measure(run, network.batches[-1:])
    found["accuracy"] = None
    if data is not None:
        say(f"{precision}: accuracy on the validation split")
        most = _counts(network.config)[1]
        before, _ = compare.accuracy(onnx_format.load(full), data.validation, most)
        after, number = compare.accuracy(run, data.validation, most)
        found["accuracy"] = {"float32": before, "quantized": after, "examples": number}
        pictures = counted(number, "picture")
        say(f"{precision}: accuracy {100 * after:.2f} %, in float32 {100 * before:.2f} %, on {pictures}")
    say(f"{precision}: probabilities differ by at most {found['largest_difference']:.2g}")
    return {path.name: found}


def _finish(folder: Path, meta: dict[str, Any]) -> None:
    """The card, then config.json with the checksums of all other files; then all of it is read as a user's would be."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    meta["files"] = {path.relative_to(folder).as_posix(): digests.sha256(path) for path in files}
    sizes = {name: (folder / name).stat().st_size for name in meta["files"]}
    (folder / CARD).write_text(model_card.card(meta, sizes, tuple(meta["outputs"])))
    (folder / CONFIG).write_text(json.dumps(artifact.signed(meta), indent=2, allow_nan=False) + "\n")
    artifact.read(folder)


def facts(found: inspection.Trained, workdir: Path, data_dir: str | None) -> dict[str, Any]:
    """What is known of a checkpoint and its run, ready for JSON: `run` in config.json. None where something is not."""
    summary = read_object(workdir / "summary.json")
    config, summaries = found.config, map(read_object, sorted(workdir.glob("evaluation/*/summary.json")))
    evaluated = found.kind == "ema" or not config.ema.decay  # all figures of a run are of its averaged weights, if any
    evaluations = [one for one in summaries if evaluated and one.get("step") == found.step]
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


@contextlib.contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place at the end, and is gone after a failure."""
    part = out.with_name(f".{out.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    busy = DataError(f"another process is exporting to {out}; wait for it, or choose another --out")
    with locked(part / ".lock", busy):
        folder = part / "artifact"
        shutil.rmtree(folder, ignore_errors=True)  # of an export that was killed
        try:
            folder.mkdir()
            yield folder
            replace_folder(folder, out, aside=part / "replaced")
        finally:
            shutil.rmtree(part, ignore_errors=True)
