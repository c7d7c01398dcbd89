"""README.md of an artifact: what the model is, from facts of its run. What is not known is said to be unknown."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines import prepare
from data_pipelines.common.errors import DataError
from expressnet_jax.config import Config

_UNKNOWN = "unknown"
_RECIPE = ("batch_size", "total", "label_smoothing")
_FIGURES = ("split", "accuracy", "accuracy_interval", "mean_class_accuracy", "macro_f1", "examples", "per_class")
_SECTIONS = ("optimizer", "schedule", "ema", "augment", "early_stop")

_USE = """\
## Use

    expressnet predict PICTURES --model FOLDER

Every graph takes `images`, uint8 (batch, height, width, 3) in RGB; a grey picture is repeated three times. Resize to
{size} pixels, colour order and normalisation are inside. Outputs by name: {outputs}. Pictures have to be cropped as the
training pictures were: {faces}.
"""

_INTENDED = """\
## Intended use

Research on facial-expression recognition, and applications that need to know which expression people would *name* in a
picture of one face, with the consent of the person in it and a person who can overrule the result.

## Limits, and what it must not be used for

- The model names the **perceived expression** of a face, as annotators named it. It does not know what a person feels,
  thinks or intends, and a face alone does not tell.
- It must not decide, or help to decide, about a person's work, education, credit, insurance, health, policing,
  migration or access to anything; nor be used to watch people without their knowledge.
- Emotion inference from faces at work and in education is restricted by law in places: in the European Union it is
  prohibited but for medical or safety reasons (AI Act, Regulation (EU) 2024/1689, Article 5(1)(f)), and elsewhere it is
  a high-risk use there. Whoever deploys the model has to know the law that applies.
- Accuracy differs between classes (see the results), and between groups of people: age, sex, skin colour, culture. How
  it differs between groups was not measured.
- Faces that are turned away, covered, badly lit, blurred or smaller than the training pictures get worse answers, and
  so do pictures that were cropped otherwise. There is always an answer, also for a picture without a face.
"""


def facts(
    config: Config, workdir: Path, record: Mapping[str, Any], step: int, weights: str, data_dir: str | None
) -> dict[str, Any]:
    """What is known of a run's checkpoint: what `run` in config.json holds. None where something is not.

    record: the checkpoint's own; weights: "ema" or "raw".
    """
    summary = _json(workdir / "summary.json")
    evaluations = [_json(path) for path in sorted((workdir / "evaluation").glob("*/summary.json"))]
    evaluated = weights == "ema" or not config.ema.decay  # all figures of a run are of its averaged weights, if any
    evaluations = [found for found in evaluations if evaluated and found.get("step") == step]
    return {
        "name": workdir.absolute().name,
        "seed": config.seed,
        **{key: summary.get(key) for key in ("result", "steps", "best_step", "best_epoch", "training_time", "devices")},
        "jax": summary.get("jax"),
        "training_examples": record.get("examples"),
        "validation": record.get("validation") if evaluated else None,
        "evaluations": [{key: found[key] for key in _FIGURES} for found in evaluations if set(_FIGURES) <= set(found)],
        "data": _data(config, data_dir),
        "started_from": {
            key: value for key, value in dataclasses.asdict(config.init).items() if isinstance(value, str) and value
        },
    }  # fmt: skip


def text(meta: Mapping[str, Any], sizes: Mapping[str, int], outputs: tuple[str, ...]) -> str:
    """The card. meta: config.json; sizes: bytes of each file; outputs: names of what the graphs return."""
    run, config = meta["run"], meta["config"]
    network = {"expressnet": "ExpressNet-MoE", "backbone": "its ResNet alone, with a linear head"}
    gone = ", ".join(config["model"]["without"])
    parts = [
        f"# {_flat(run['name'])}: facial expressions, {network[config['model']['network']]}"
        f"{f' without {gone}' if gone else ''}\n",
        f"Names the perceived expression of a face, one of {len(meta['classes'])}: {', '.join(meta['classes'])}.\n"
        f"Preset {config['model']['preset']}, {config['model']['image_size']} pixels, weights in {meta['dtype']}, "
        f"{'averaged over steps (EMA)' if meta['weights'] == 'ema' else 'as trained (not averaged)'}, "
        f"checkpoint of step {meta['step']}. Digest of the weights: `{meta['digest']}`.\n",
        _USE.format(
            size=config["model"]["image_size"], outputs=", ".join(f"`{name}`" for name in outputs), faces=_faces(meta)
        ),
        _files(meta, sizes),
        _data_section(run["data"], run),
        _training(config, run),
        _results(meta),
        _licences(run),
        _INTENDED,
    ]
    return "\n".join(parts)


def _files(meta: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    lines = ["## Files\n", "| file | size |", "|---|---|"]
    lines += [f"| {name} | {size / 1e6:.1f} MB |" for name, size in sizes.items()]
    for name, found in meta["compared"].items():
        differences = ", ".join(f"{key} {value:.2g}" for key, value in found["largest_difference"].items())
        lines.append(
            f"\n{name} was loaded again and compared with the checkpoint on {found['pictures']} pictures in batches of "
            f"{', '.join(map(str, found['batches']))}. Largest differences (of logits and features as a fraction of "
            f"the largest): {differences}."
        )
    if meta["real_pictures"] == 0:
        lines.append("\nOnly random pictures were compared: the data set was not there when the model was exported.")
    for name, found in meta["quantized"].items():
        accuracy = found["accuracy"]
        measured = "its loss of accuracy was not measured (the data set was not there)"
        if accuracy:
            measured = (
                f"accuracy on {accuracy['examples']} validation pictures {100 * accuracy['quantized']:.2f} % against "
                f"{100 * accuracy['float32']:.2f} % in float32"
            )
        lines.append(
            f"\n{name}: probabilities differ from the checkpoint's by at most {found['largest_difference']:.2g}, "
            f"{found['mean_difference']:.2g} on average; the same class for {100 * found['same_answer']:.1f} % of "
            f"{found['pictures']} pictures; {measured}."
        )
    if meta["dtype"] != "float32":
        lines.append(
            f"\nRounding the weights to {meta['dtype']} changed probabilities by at most {meta['rounding']:.2g}; all "
            "graphs here have the rounded weights."
        )
    return "\n".join(lines) + "\n"


def _data_section(data: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    lines = ["## Data\n", f"- data set: {data['name']}" + (f", and also {data['also']}" if data["also"] else "")]
    if "unknown" in data:
        lines.append(f"- layout, protocol and counts: {_UNKNOWN} ({_flat(data['unknown'])})")
    else:
        lines += [f"- layout: {_flat(data['layout'])}", f"- protocol: {_flat(data['protocol'])}"]
        for split, counts in data["counts"].items():
            numbers = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            lines.append(f"- {split}: {sum(counts.values()):,} pictures ({numbers})")
        lines.append(f"- pictures left out as unusable: {data['skipped']:,}")
        lines += [f"- note: {_flat(note)}" for note in data["notes"]]
    lines.append(f"- trained on {run['training_examples'] or _UNKNOWN} examples; validated on {data['validation']}")
    lines.append(f"- the data set's own terms, and the consent of the people in it: {_UNKNOWN} to this program")
    return "\n".join(lines) + "\n"


def _training(config: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    known = {
        "seed": run["seed"], "result": run["result"], "steps": run["steps"], "best step": run["best_step"],
        "best epoch": run["best_epoch"], "time": run["training_time"], "devices": run["devices"], "jax": run["jax"],
    }  # fmt: skip
    lines = ["## Training\n", *(f"- {k}: {_UNKNOWN if v is None else _flat(v)}" for k, v in known.items())]
    lines.append("- recipe: " + ", ".join(f"{key}={config[key]}" for key in _RECIPE))
    for section in _SECTIONS:
        lines.append(f"- {section}: " + ", ".join(f"{key}={value}" for key, value in config[section].items()))
    return "\n".join(lines) + "\n"


def _results(meta: Mapping[str, Any]) -> str:
    run, lines = meta["run"], ["## Results\n"]
    if validation := run["validation"]:
        numbers = ", ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in validation.items())
        chose = ", which chose this checkpoint among those of the run" if meta["step"] == run["best_step"] else ""
        lines.append(f"Validation{chose}: {numbers}.\n")
    else:
        lines.append(f"Validation of this checkpoint: {_UNKNOWN}.\n")
    for found in run["evaluations"]:
        low, high = found["accuracy_interval"]
        lines += [
            f"{_flat(found['split'])}, {found['examples']:,} examples: accuracy {100 * found['accuracy']:.2f} % (95 % "
            f"interval {100 * low:.2f} to {100 * high:.2f}), mean class accuracy "
            f"{100 * found['mean_class_accuracy']:.2f} %, macro F1 {100 * found['macro_f1']:.2f} %.\n",
            "| class | precision | recall | F1 | examples |",
            "|---|---|---|---|---|",
        ]
        for name, row in found["per_class"].items():
            figures = " | ".join(f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
            lines.append(f"| {_flat(name)} | {figures} | {row['examples']:,} |")
        lines.append("")
    if not run["evaluations"]:
        lines.append(f"Results by class: {_UNKNOWN}; no evaluation of these weights lies in the run's folder.\n")
    return "\n".join(lines)


def _licences(run: Mapping[str, Any]) -> str:
    lines = ["## Licences\n", f"- these weights: {_UNKNOWN} until whoever publishes them says so here"]
    lines += [
        f"- weights that training started from, {key}: {_flat(value)}; licence: {_UNKNOWN}, see where it came from"
        for key, value in run["started_from"].items()
    ]
    if not run["started_from"]:
        lines.append("- no weights from elsewhere: training began from random ones")
    lines.append("- the code, expressnet_jax: Apache-2.0")
    return "\n".join(lines) + "\n"


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


def _faces(meta: Mapping[str, Any]) -> str:
    if meta["faces"] is None:
        return f"{_UNKNOWN}, since the data set was not there when the model was exported"
    return f"faces cut out by {_flat(meta['faces'])}" if meta["faces"] else "whole, as the data set has them"


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _flat(value: Any) -> str:
    """One line that no table or heading breaks at."""
    return " ".join(str(value).split()).replace("|", "/")
