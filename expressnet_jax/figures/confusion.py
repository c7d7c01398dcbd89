"""The confusion matrix of an evaluation."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from data_pipelines.common.text import shorten
from expressnet_jax.figures.canvas import INK, head, save

_NAME = 12  # characters of a class name that fit beside a matrix
_MAX_NUMBERED = 16  # classes up to which the cells of a confusion matrix carry their numbers


def confusion_figure(summary: dict[str, Any], path: str | os.PathLike[str], title: str = "") -> None:
    """The confusion matrix of a summary (`metrics.summarize`): colour is the share of the true class, by row.

    Each cell holds that share in percent and, below it, the count (up to 16 classes). A class without examples has
    a grey row.
    """
    counts = np.asarray(summary["confusion"], np.int64)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    size = len(counts)
    names = [shorten(name, _NAME) for name in summary["classes"]]
    side = min(max(0.72 * size, 2.2), 11.0)  # inches
    figure = Figure(figsize=(max(side + 2.8, 5.6), side + 1.8), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("#DDDDDD")
    heat = axes.pcolormesh(np.ma.masked_invalid(shares), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true (examples)", aspect="equal", ylim=(size, 0))
    places = np.arange(size) + 0.5
    axes.set_xticks(places, names, rotation=40, ha="right", rotation_mode="anchor", parse_math=False)
    rows = [f"{name} ({total:,})" for name, total in zip(names, totals[:, 0], strict=True)]
    axes.set_yticks(places, rows, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for edge in range(1, size):
        axes.axhline(edge, color="white", linewidth=1.5)
        axes.axvline(edge, color="white", linewidth=1.5)
    for (row, column), share in np.ndenumerate(shares):
        if size <= _MAX_NUMBERED and totals[row]:
            weight, colour = "bold" if row == column else "normal", "white" if share > 0.55 else INK
            place: dict[str, Any] = {"x": column + 0.5, "y": row + 0.5, "ha": "center", "va": "center"}
            axes.text(s=f"{share:.0%}\n{counts[row, column]:,}", fontsize=8.5, fontweight=weight, color=colour, **place)
    figure.colorbar(heat, format=PercentFormatter(1.0), aspect=30).outline.set_visible(False)
    low, high = summary["accuracy_interval"]
    head(figure, shorten(title or "Confusion matrix", int(figure.get_figwidth() * 9)))
    figure.supxlabel(
        f"accuracy {summary['accuracy']:.1%} (95% interval {low:.1%} to {high:.1%}), "
        f"macro F1 {summary['macro_f1']:.1%}, {summary['examples']:,} examples", fontsize=8, color=INK,
    )  # fmt: skip
    save(figure, path)
