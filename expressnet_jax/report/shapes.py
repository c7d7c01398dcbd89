"""What a report takes from the JSON files of a run, and where a file is not like that.

A run's folder may come from a stranger, from an older version or from a disk that was full. What fits its shape here
is shown without another look at it, so everything that the page, the tables or the comparison with the paper relies on
stands here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_pipelines.audit.audit import shown
from data_pipelines.common.pages import finite, get

_DEEPEST = 20  # our own files have 8 levels

#: A type (int: a count, from 0; float: any number), a list of one shape, a tuple of shapes, {str: shape} with any keys,
#: or a dict of keys. A key that ends in "?" may be missing or null; keys that are not named may hold anything.
Shape = Any

_INTERVAL = (float, float)
_BIN = {"low": float, "high": float, "count": int, "confidence?": float, "accuracy?": float}
_SCORES = {"ece?": float, "nll?": float, "brier?": float, "bins?": [_BIN]}
_DEPTH = {
    "calibration?": {"temperature?": float, "fitted_on?": str, "before?": _SCORES, "after?": _SCORES},
    "flip?": {
        **dict.fromkeys(("accuracy?", "mean_class_accuracy?", "macro_f1?", "difference?", "mcnemar_p?"), float),
        "interval?": _INTERVAL,
    },
    "duplicates?": {
        "leaked?": int,
        **dict.fromkeys(("accuracy?", "accuracy_leaked?", "accuracy_without?", "macro_f1_without?"), float),
    },
    "votes?": dict.fromkeys(
        ("agreement_top?", "cross_entropy?", "kl?", "mean_probability_of_majority?", "spearman_entropy?"), float
    ),
}
_LAYER = {
    **dict.fromkeys(("experts?", "selected?", "dead?"), int),
    **dict.fromkeys(
        ("entropy?", "mutual_information?", "mutual_information_by_chance?", "normalized_mutual_information?"), float
    ),
    "load?": [float],
    "importance?": [float],
    "classes?": [[int]],
    "surest?": [[{"index?": int, "label?": int, "probability?": float}]],
}
_EVALUATION: Shape = {
    "split": str,
    "asked?": str,
    "step?": int,
    "chosen_on?": bool,
    "loss?": float,
    "accuracy": float,
    "accuracy_interval?": _INTERVAL,
    "mean_class_accuracy?": float,
    "macro_f1": float,
    "examples": int,
    "classes": [str],
    "confusion?": [[int]],
    "per_class": {str: {"precision?": float, "recall?": float, "f1": float, "examples?": int}},
    "depth?": _DEPTH,
    "experts?": {str: _LAYER},
    "factors?": {str: [{"value?": str, "examples?": int, "accuracy?": float, "interval?": _INTERVAL}]},
    "robustness?": {
        "strengths": [float],
        "corruptions": {str: {"accuracy": [float], "macro_f1": [float]}},
        "mean_accuracy?": float,
        "relative?": float,
    },
    "saliency?": {"shares?": {str: float}},
}
#: The summary of a training.
SUMMARY: Shape = {
    "best_step?": int, "best_epoch?": float, **dict.fromkeys(("result?", "training_time?", "devices?", "jax?"), str),
}  # fmt: skip
#: Records of metrics.jsonl by their kind. A loss is null where it was not finite.
RECORDS: dict[str, Shape] = {
    "train": {"step": int, "epoch": float, "loss?": float, "accuracy?": float, "images_per_second": float},
    "validation": {"step": int, "epoch": float, "loss?": float, "accuracy?": float, "macro_f1?": float},
}


def misfit(value: Any, shape: Shape) -> str | None:
    """The first place where a value from a JSON file is not of the shape, in words; None where it fits."""
    if _too_deep(value, _DEEPEST):
        return f"it is nested in more than {_DEEPEST} levels"
    wrong = next(_misfits(value, shape, ""), None)
    return None if wrong is None else shown(wrong)


def evaluation(found: Any) -> str | None:
    """`misfit` for the summary of an evaluation, whose lists must also be as long as its names are many."""
    return misfit(found, _EVALUATION) or next(_uneven(found), None)


def _too_deep(value: Any, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_too_deep(item, levels - 1) for item in items)


def _misfits(value: Any, shape: Shape, where: str) -> Iterator[str]:
    if isinstance(shape, type):
        if not _is(value, shape):
            yield f"{where or 'it'} is not {_WORDS[shape]}"
    elif isinstance(shape, dict):
        yield from _of_keys(value, shape, where)
    elif not isinstance(value, list):
        yield f"{where or 'it'} is not a list"
    elif isinstance(shape, tuple) and len(value) != len(shape):
        yield f"{where} has {len(value)} items, not {len(shape)}"
    else:
        for place, item in enumerate(value):
            yield from _misfits(item, shape[place if isinstance(shape, tuple) else 0], f"{where}[{place}]")


def _of_keys(value: Any, shape: dict[Any, Shape], where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where or 'it'} is not an object"
        return
    start = f"{where}." if where else ""
    if str in shape:
        for key, item in value.items():
            yield from _misfits(item, shape[str], f"{start}{key}")
        return
    for key, expected in shape.items():
        name = key.removesuffix("?")
        if name == key and name not in value:
            yield f"{start}{name} is missing"
        elif name == key or value.get(name) is not None:
            yield from _misfits(value[name], expected, f"{start}{name}")


_WORDS = {int: "a whole number from 0", float: "a number of sensible size", str: "a text", bool: "true or false"}


def _is(value: Any, kind: type) -> bool:
    if kind is int:
        return isinstance(value, int) and finite(value) is not None and value >= 0
    return finite(value) is not None if kind is float else isinstance(value, kind)


def _uneven(found: dict[str, Any]) -> Iterator[str]:
    """Lists of an evaluation whose lengths do not go together, in words."""
    classes = len(found["classes"])
    tables = {"confusion": (found.get("confusion"), classes)}
    for name, layer in (found.get("experts") or {}).items():
        experts = len(layer.get("load") or [])
        tables[f"experts.{name}.classes"] = (layer.get("classes"), experts)
        for key in ("importance", "surest"):
            if layer.get(key) is not None and len(layer[key]) != experts:
                yield shown(f"experts.{name}.{key} has {len(layer[key])} items, and load {experts}")
        labels = [one["label"] for of_expert in layer.get("surest") or [] for one in of_expert if get(one, "label")]
        if max(labels, default=0) >= max(classes, 1):
            yield shown(f"experts.{name}.surest has a label of no class")
    for name, (rows, height) in tables.items():
        if rows is not None and [len(row) for row in rows] != [classes] * height:
            yield shown(f"{name} is not {height} rows of {classes}")
    strengths = len(get(found, "robustness", "strengths") or [])
    for name, curves in (get(found, "robustness", "corruptions") or {}).items():
        if any(len(curves[key]) != strengths for key in ("accuracy", "macro_f1")):
            yield shown(f"robustness.corruptions.{name} is not of {strengths} strengths")
