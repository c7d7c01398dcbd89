"""The tables in an evaluation's text: rows of cells under a heading, or lines where the last column is words.

Each takes its part of a summary (docs/ablations.md, "What an evaluation holds").
"""

import math
from collections.abc import Sequence
from typing import Any

from data_pipelines.common.prose import percent
from data_pipelines.common.text import shorten
from expressnet_jax.evaluation import factors, robustness

Rows = list[list[str]]


def of_classes(found: dict[str, Any]) -> Rows:
    """Precision, recall and F1 of each class. A class without examples has no recall: a 0 would read as a failure."""
    rows = [["class", "precision", "recall", "F1", "examples"]]
    for name, own in found["per_class"].items():
        recall = own["recall"] if own["examples"] else None
        rows.append([name, *map(percent, (own["precision"], recall, own["f1"])), f"{own['examples']:,}"])
    return rows


def of_confusion(found: dict[str, Any]) -> Rows:
    """What each true class was taken for, in % of its examples: "." where none was, "-" where there are none."""
    rows = [["true \\ predicted", *(shorten(name, 9) for name in found["classes"]), "examples"]]
    for name, counts in zip(found["classes"], found["confusion"], strict=True):
        total = sum(counts)
        none = "." if total else "-"
        rows.append([name, *(f"{100 * n / total:.1f}" if n else none for n in counts), f"{total:,}"])
    return rows


def of_factors(found: dict[str, Any]) -> Rows:
    """The accuracy by each value of what the faces were drawn with."""
    rows = [["factor", "value", "accuracy", "95 % interval", "examples"]]
    for name, values in found.items():
        for number, own in enumerate(values):
            low, high = (f"{100 * bound:.1f}" for bound in own["interval"])
            cells = [own["value"], percent(own["accuracy"], 1), f"{low} to {high}", f"{own['examples']:,}"]
            rows.append(["" if number else name, *cells])
    return rows


def of_gaps(found: dict[str, Any]) -> list[str]:
    """A line for each factor of more than one value: how far its best and its worst are apart, and by chance."""
    lines = []
    for name, values in found.items():
        if len(values) > 1:
            gap = factors.spread(values)
            between = f"{100 * gap['gap']:.1f} points between {gap['best']} and {gap['worst']}"
            lines.append(f"{name}: {between}, p = {gap['p_value']:.2g}")
    return lines


def of_experts(layer: dict[str, Any], classes: Sequence[str]) -> list[str]:
    """Lines of a mixture: each expert's load, first choices and importance, and the classes that select it most."""
    what = "first choice" if layer["selected"] == layer["experts"] else "selected most"
    lines = [f"expert      load     first  importance  {what} for"]
    for i, counts in enumerate(layer["classes"]):
        pairs = sorted(zip(counts, classes, strict=True), key=lambda pair: pair[0], reverse=True)[:3]
        most = ", ".join(f"{shorten(name, 12)} {100 * n / sum(counts):.1f} %" for n, name in pairs if n) or "nothing"
        load, first, importance = (percent(layer[key][i], 1) for key in ("load", "first", "importance"))
        lines.append(f"{i:>6}  {load:>8}  {first:>8}  {importance:>10}  {most}")
    return lines


def of_corruptions(found: dict[str, Any]) -> list[str]:
    """Lines of the accuracy in % at each strength of each corruption, and its mean over the strengths but 0."""
    lines = [" " * 16 + "".join(f"{strength:>7}" for strength in found["strengths"]) + f"{'mean of 1 to 5':>17}"]
    for name, own in found["corruptions"].items():
        values = own["accuracy"]
        mean = math.fsum(values[1:]) / len(values[1:])
        cells = "".join(f"{100 * value:7.1f}" for value in values)
        lines.append(f"{name:<16}{cells}{100 * mean:17.1f}  {robustness.CORRUPTIONS[name].description}")
    return lines
