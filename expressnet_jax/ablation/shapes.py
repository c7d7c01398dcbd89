"""What is taken from the JSON files of a study and its runs, and where a file is not like that.

A folder may come from a stranger, from an older version or from a disk that was full. What fits its shape here is used
without another look at it, so everything that the page, the tables or the comparison with the paper relies on stands
here.
"""

from collections.abc import Iterator
from typing import Any

from data_pipelines.common.pages import LARGEST
from data_pipelines.common.text import shown

_DEEPEST = 20  # levels of nesting; our own files have 8

#: A type (int: a count, from 0; float: any number), a list of one shape, a tuple of shapes, {str: shape} with any keys,
#: or a dict of keys. A key that ends in "?" may be missing or null; keys that are not named may hold anything.
Shape = Any


def _optional(kind: type, names: str) -> dict[str, Shape]:
    return {f"{name}?": kind for name in names.split()}


_INTERVAL = (float, float)
_BIN = {"low": float, "high": float, "count": int, **_optional(float, "confidence accuracy")}
_SCORES = {**_optional(float, "ece nll brier"), "bins?": [_BIN]}
_FLIP = "accuracy mean_class_accuracy macro_f1 difference mcnemar_p"
_DUPLICATES = "accuracy accuracy_leaked accuracy_without macro_f1_without"
VOTES = "agreement_top cross_entropy kl mean_probability_of_majority spearman_entropy"
_DEPTH = {
    "calibration?": {"temperature?": float, "fitted_on?": str, "before?": _SCORES, "after?": _SCORES},
    "flip?": {**_optional(float, _FLIP), "interval?": _INTERVAL},
    "duplicates?": {"leaked?": int, **_optional(float, _DUPLICATES)},
    "votes?": _optional(float, VOTES),
}
INFORMATION = "entropy mutual_information mutual_information_by_chance normalized_mutual_information"
_LAYER = {
    **_optional(int, "experts selected dead"),
    **_optional(float, INFORMATION),
    "load?": [float],
    "first?": [float],
    "importance?": [float],
    "classes?": [[int]],
    "surest?": [[{**_optional(int, "index label"), "probability?": float}]],
}
_EVALUATION: Shape = {
    "split": str, "examples": int, "accuracy": float, "macro_f1": float, "classes": [str],
    "per_class": {str: {"f1": float, "examples?": int, **_optional(float, "precision recall")}},
    "asked?": str, "step?": int, "chosen_on?": bool, "accuracy_interval?": _INTERVAL, "confusion?": [[int]],
    **_optional(float, "loss mean_class_accuracy"),
    "depth?": _DEPTH,
    "experts?": {str: _LAYER},
    "factors?": {str: [{"value?": str, "examples?": int, "accuracy?": float, "interval?": _INTERVAL}]},
    "robustness?": {
        "strengths": [float],
        "corruptions": {str: {"accuracy": [float], "macro_f1": [float]}},
        **_optional(float, "mean_accuracy relative"),
    },
    "saliency?": {"shares?": {str: float}},
}  # fmt: skip
#: The summary of a training.
TRAINING: Shape = {
    "best_step?": int,
    "best_epoch?": float,
    **_optional(str, "result training_time time_went_into devices jax"),
}
#: What get_study of a ready-made study returns.
READY_MADE: Shape = {
    **dict.fromkeys(("question", "config", "baseline"), str), "seeds?": int, "needs?": {str: str}, "arms": {str: {}},
}  # fmt: skip
#: study.json.
STUDY: Shape = {
    **dict.fromkeys(("name", "question", "config", "split", "baseline"), str),
    "common": [(str, str)],
    "arms": {str: {str: str}},
    "left_out": [{"arm": str, "why": str}],
    "runs": [{"number": int, "arm": str, "seed": int}],
}
#: Records of metrics.jsonl by their kind. A loss is null where it was not finite.
RECORDS: dict[str, Shape] = {
    "train": {"step": int, "epoch": float, "images_per_second": float, **_optional(float, "loss accuracy")},
    "validation": {"step": int, "epoch": float, **_optional(float, "loss accuracy macro_f1")},
}


def evaluation(found: Any) -> str | None:
    """`misfit` for the summary of an evaluation, whose lists must also be as long as its names are many."""
    if _too_deep(found, _DEEPEST):
        return f"it is nested in more than {_DEEPEST} levels"
    return misfit(found, _EVALUATION) or next(map(shown, _uneven(found)), None)


def misfit(value: Any, shape: Shape) -> str | None:
    """The first place where a value from a JSON file is not of the shape, in words; None where it fits."""
    return next(map(shown, _misfits(value, shape, "")), None)


def _too_deep(value: Any, levels: int) -> bool:
    """What no shape names is kept too, and whoever writes it must get to its end."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return items is not None and (levels == 0 or any(_too_deep(item, levels - 1) for item in items))


def _misfits(value: Any, shape: Shape, where: str) -> Iterator[str]:
    if isinstance(shape, type):
        if not _is(value, shape):
            yield f"{where or 'it'} is not {_WORDS[shape]}"
    elif isinstance(shape, dict):
        yield from _of_keys(value, shape, where) if isinstance(value, dict) else [f"{where or 'it'} is not an object"]
    elif not isinstance(value, list):
        yield f"{where or 'it'} is not a list"
    elif isinstance(shape, tuple) and len(value) != len(shape):
        yield f"{where} has {len(value)} items, not {len(shape)}"
    else:
        for place, item in enumerate(value):
            yield from _misfits(item, shape[place if isinstance(shape, tuple) else 0], f"{where}[{place}]")


def _of_keys(value: dict[str, Any], shape: dict[Any, Shape], where: str) -> Iterator[str]:
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
    if kind not in (int, float):
        return isinstance(value, kind)
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST
    return number and (kind is float or (isinstance(value, int) and value >= 0))


def _uneven(found: dict[str, Any]) -> Iterator[str]:
    """Lists of an evaluation whose lengths do not go together, in words."""
    classes = len(found["classes"])
    tables = {"confusion": (found.get("confusion"), classes)}
    for name, layer in (found.get("experts") or {}).items():
        experts = len(layer.get("load") or [])
        tables[f"experts.{name}.classes"] = (layer.get("classes"), experts)
        for key in ("first", "importance", "surest"):
            if layer.get(key) is not None and len(layer[key]) != experts:
                yield f"experts.{name}.{key} has {len(layer[key])} items, and load {experts}"
        labels = [one.get("label") or 0 for of_expert in layer.get("surest") or [] for one in of_expert]
        if max(labels, default=0) >= max(classes, 1):
            yield f"experts.{name}.surest has a label of no class"
    for name, (rows, height) in tables.items():
        if rows is not None and [len(row) for row in rows] != [classes] * height:
            yield f"{name} is not {height} rows of {classes}"
    robust = found.get("robustness") or {"strengths": [], "corruptions": {}}
    strengths = len(robust["strengths"])
    for name, curves in robust["corruptions"].items():
        if not len(curves["accuracy"]) == len(curves["macro_f1"]) == strengths:
            yield f"robustness.corruptions.{name} is not of {strengths} strengths"
