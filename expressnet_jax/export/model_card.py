"""README.md of an artifact: what the model is, from facts of its run, with the metadata that Hugging Face reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from data_pipelines.common import prose
from data_pipelines.common.text import shown

NETWORKS = {"expressnet": "ExpressNet-MoE", "backbone": "its ResNet alone, with a linear head"}
_LIBRARIES = {"stablehlo": "stablehlo", "onnx": "onnx", "savedmodel": "tensorflow"}  # tags, by format
#: Figures of an evaluation: what Hugging Face calls each, and what it is here.
_METRICS = {
    "accuracy": ("accuracy", "accuracy"), "macro_f1": ("f1", "macro F1"),
    "mean_class_accuracy": ("recall", "mean class accuracy (macro recall)"),
}  # fmt: skip


def card(meta: Mapping[str, Any], sizes: Mapping[str, int], outputs: tuple[str, ...]) -> str:
    """The whole card; what is not known is said to be unknown.

    meta: config.json; sizes: bytes of each file; outputs: names of what the graphs return.
    """
    network = NETWORKS[meta["config"]["model"]["network"]]
    values = {**meta, "sizes": sizes, "outputs": outputs, "network": network, "as_stored": _as_stored(meta["stored"])}
    return f"{_front_matter(meta)}\n{prose.filled(__file__, 'model_card.md.j2', **values)}\n"


def _as_stored(stored: Sequence[int] | None) -> str:
    """What follows Image.open(...) in Python, to bring a picture to what the training pictures were; see `predict`."""
    if stored is None:
        return '.convert("RGB")'
    height, width, channels = stored
    size = f'.convert("RGB").resize(({width}, {height}), Image.Resampling.BILINEAR)'
    return f'{size}.convert("L").convert("RGB")' if channels == 1 else size


def _front_matter(meta: Mapping[str, Any]) -> str:
    """YAML between two lines of dashes. Figures are there as far as the run was evaluated; a stranger's text in them is
    shown as it may be on a terminal."""
    libraries = [tag for name, tag in _LIBRARIES.items() if name in meta["compared"]]
    found: dict[str, Any] = {
        "license": "unknown", "library_name": "expressnet_jax", "pipeline_tag": "image-classification",
        "tags": ["facial-expression-recognition", "mixture-of-experts", "jax", "flax", "safetensors", *libraries],
    }  # fmt: skip
    if results := [_result(one) for one in meta["run"]["evaluations"]]:
        found["metrics"] = sorted({metric["type"] for result in results for metric in result["metrics"]})
        found["model-index"] = [{"name": shown(meta["run"]["name"]), "results": results}]
    return f"---\n{yaml.safe_dump(found, sort_keys=False, allow_unicode=True)}---\n"


def _result(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    data, _, split = shown(evaluation["split"]).rpartition("/")
    return {
        "task": {"type": "image-classification", "name": "facial-expression recognition"},
        "dataset": {"type": data, "name": data, "split": split},
        "metrics": [
            {"type": kind, "name": name, "value": round(evaluation[key], 6)} for key, (kind, name) in _METRICS.items()
        ],
    }
