"""Pictures of an evaluation and of a run, as PNG files.

Drawn with matplotlib's objects on an Agg canvas, never through pyplot: no display is looked for, no global list of
figures grows, and threads do not meet. The colours are Okabe and Ito's, which stay apart for colour-blind readers,
and nothing is told by colour alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from data_pipelines.common.text import shorten

BLUE, VERMILLION, GREY, INK = "#0072B2", "#D55E00", "#8A8A8A", "#222222"
RIGHT_SIGN, WRONG_SIGN = "\u2713", "\u2717"
MAX_PICTURES = 256  # of one grid; beyond it the file gets too large to look at
_DPI = 150
_NAME = 12  # characters of a class name that fit under a picture and beside a matrix
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
    rows = [f"{name} ({total:,})" for name, total in zip(names, totals[:, 0], strict=True)]
    # Inches. Margins from the lengths of the names keep the cells square and of one size in every figure.
    side = min(max(0.72 * size, 2.2), 11.0)
    left, bottom = 0.5 + 0.088 * max(map(len, rows)), 0.5 + 0.065 * max(map(len, names))
    width, height = max(left + side + 1.0, 5.6), bottom + side + 0.8
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    axes.set_facecolor("#DDDDDD")
    heat = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(size), names, rotation=40, ha="right", rotation_mode="anchor", parse_math=False)
    axes.set_yticks(range(size), rows, parse_math=False)
    figure.text((left + side / 2) / width, 0.12 / height, "predicted", ha="center")
    figure.text(0.12 / width, (bottom + side / 2) / height, "true (examples)", rotation=90, va="center")
    _separate_cells(axes, size)
    if size <= _MAX_NUMBERED:
        _write_cells(axes, counts, shares)
    scale = figure.add_axes(((left + side + 0.15) / width, bottom / height, 0.17 / width, side / height))
    figure.colorbar(heat, cax=scale, format=PercentFormatter(1.0)).ax.spines[:].set_visible(False)
    _write_heading(figure, summary, title or "Confusion matrix")
    save(figure, path)


def _separate_cells(axes: Axes, size: int) -> None:
    """White lines between the cells, in place of the frame and its ticks."""
    axes.set_xticks(np.arange(size - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(size - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _write_cells(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if np.isnan(share):
            continue
        weight = "bold" if row == column else "normal"
        # Offsets in points, so that the two lines keep together in cells of any size.
        style: dict[str, Any] = {
            "xy": (column, row),
            "textcoords": "offset points",
            "ha": "center",
            "color": "white" if share > 0.55 else INK,
        }
        axes.annotate(f"{share:.0%}", xytext=(0, -1), va="bottom", fontsize=9.5, fontweight=weight, **style)
        axes.annotate(f"{counts[row, column]:,}", xytext=(0, -3), va="top", fontsize=7, **style)


def _write_heading(figure: Figure, summary: dict[str, Any], title: str) -> None:
    low, high = summary["accuracy_interval"]
    figures = (
        f"accuracy {summary['accuracy']:.1%} (95% interval {low:.1%} to {high:.1%}), "
        f"macro F1 {summary['macro_f1']:.1%}, {summary['examples']:,} examples"
    )
    width, height = figure.get_size_inches()
    heading = shorten(title, int(width * 9))
    figure.text(0.12 / width, 1 - 0.28 / height, heading, fontsize=12, fontweight="bold", va="center", parse_math=False)
    figure.text(0.12 / width, 1 - 0.55 / height, figures, fontsize=8, color=INK, va="center")


def predictions_figure(
    images: ArrayLike,
    labels: ArrayLike,
    predictions: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    path: str | os.PathLike[str],
) -> None:
    """A grid of pictures, each with its predicted class and that class's probability; wrong ones are marked.

    Args:
        images: uint8 (B, H, W, C), C 1 or 3 (RGB); B at most MAX_PICTURES.
        labels: the true classes (B,), as numbers into `classes`.
        predictions: the predicted classes (B,).
        probabilities: (B, len(classes)).
        classes: the class names.
        path: the PNG file to write.
    """
    pictures, truth, guess, chance = _checked_grid(images, labels, predictions, probabilities, len(classes))
    number = len(pictures)
    columns = max(4, math.ceil(math.sqrt(number)))
    rows = math.ceil(number / columns)
    # All lengths below are inches: one axes that fills the figure, with data units of an inch.
    width, gap, caption, header = 1.4, 0.14, 0.42, 0.45
    height = width * pictures.shape[1] / pictures.shape[2]
    total_width = gap + columns * (width + gap)
    total_height = header + rows * (height + caption) + gap / 2
    figure = Figure(figsize=(total_width, total_height))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    for i, picture in enumerate(pictures):
        left = gap + (i % columns) * (width + gap)
        top = header + (i // columns) * (height + caption)
        name, true_name = (shorten(classes[which], _NAME) for which in (guess[i], truth[i]))
        _draw_tile(axes, picture, (left, top, width, height), name, true_name, guess[i] == truth[i], chance[i])
    right = int((truth == guess).sum())
    axes.text(gap, 0.2, f"{right} of {number} right", va="center", fontsize=11, fontweight="bold")
    legend = f"{RIGHT_SIGN} right   {WRONG_SIGN} wrong, with the true class"
    axes.text(total_width - gap, 0.2, legend, va="center", ha="right", fontsize=8, color=INK)
    # Last, because each picture drawn moves the limits.
    axes.set(xlim=(0, total_width), ylim=(total_height, 0), aspect="auto")
    save(figure, path)


def _draw_tile(
    axes: Axes,
    picture: NDArray[np.uint8],
    box: tuple[float, float, float, float],
    name: str,
    true_name: str,
    is_right: bool,
    probability: float,
) -> None:
    """One picture in its box (left, top, width, height), framed, with one or two lines of text below."""
    left, top, width, height = box
    bottom = top + height
    colour, sign = (BLUE, RIGHT_SIGN) if is_right else (VERMILLION, WRONG_SIGN)
    axes.imshow(picture, extent=(left, left + width, bottom, top), interpolation="bicubic")
    axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=colour, linewidth=1 if is_right else 3))
    line = f"{sign} {name} {probability:.0%}"
    weight = "normal" if is_right else "bold"
    axes.text(left, bottom + 0.05, line, va="top", fontsize=7.5, color=colour, fontweight=weight, parse_math=False)
    if not is_right:
        axes.text(left, bottom + 0.19, f"true: {true_name}", va="top", fontsize=7.5, color=INK, parse_math=False)


def _checked_grid(
    images: ArrayLike, labels: ArrayLike, predictions: ArrayLike, probabilities: ArrayLike, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pictures as RGB, true and predicted classes, and the probability of each predicted class."""
    pictures, chances = np.asarray(images), np.asarray(probabilities, np.float64)
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] not in (1, 3):
        raise ValueError(f"pictures must be uint8 (B, H, W, 1 or 3), got {pictures.dtype} {pictures.shape}")
    number = len(pictures)
    if not 1 <= number <= MAX_PICTURES:
        raise ValueError(f"{number} pictures: a grid holds 1 to {MAX_PICTURES}")
    if chances.shape != (number, size):
        raise ValueError(f"probabilities of shape {chances.shape}, expected ({number}, {size})")
    truth, guess = np.asarray(labels, np.int64), np.asarray(predictions, np.int64)
    for what, numbers in (("labels", truth), ("predictions", guess)):
        if numbers.shape != (number,):
            raise ValueError(f"{what} of shape {numbers.shape}, expected ({number},)")
        if numbers.min() < 0 or numbers.max() >= size:
            raise ValueError(f"{what} from {numbers.min()} to {numbers.max()}, but there are {size} classes")
    if pictures.shape[3] == 1:
        pictures = np.repeat(pictures, 3, axis=3)
    return pictures, truth, guess, chances[np.arange(number), guess]


def curves_figure(records: Sequence[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Loss and accuracy over the epochs of a run, in training and in validation, from its metrics.jsonl.

    The best epoch is that of the highest validation accuracy, whose checkpoint is kept. Records of one step
    that occur twice, as after resuming from an older checkpoint, count once: the last one written holds.
    """
    train, validation = _of_kind(records, "train"), _of_kind(records, "validation")
    best = _best(validation)
    figure = Figure(figsize=(10, 4.2), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    left, right = figure.subplots(1, 2)
    for axes, key in ((left, "loss"), (right, "accuracy")):
        axes.set_title(key, fontsize=11, fontweight="bold", loc="left")
        axes.set_xlabel("epoch")
        _plot_training(axes, train, key)
        _plot_validation(axes, validation, key, best)
        # Ticks at whole epochs, once there is one.
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#E5E5E5", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    if train or validation:
        # Outside the axes: wherever it lay inside, some run's curve would pass behind it.
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    else:
        figure.suptitle("nothing recorded yet", color=GREY)
    save(figure, path)


def experts_figure(records: Sequence[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Each expert's share of the selections over the steps of a run, layer by layer, from its metrics.jsonl.

    The busiest and the idlest at the end are named, the others faint; a dotted line is the even share.
    """
    train = [record for record in _of_kind(records, "train") if any(key.endswith("/load") for key in record)]
    layers = [key.removesuffix("/load") for key in train[0] if key.endswith("/load")] if train else []
    if not layers:
        return
    figure = Figure(figsize=(5 * len(layers), 3.8), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    steps = [record["step"] for record in train]
    highest = max(max(record[f"{layer}/load"]) for record in train for layer in layers)
    for axes, layer in zip(np.atleast_1d(figure.subplots(1, len(layers), sharey=True)), layers, strict=True):
        loads = np.array([record[f"{layer}/load"] for record in train])  # (records, experts)
        named = {int(loads[-1].argmax()): (VERMILLION, "o"), int(loads[-1].argmin()): (BLUE, "s")}
        for e, load in enumerate(loads.T):
            color, marker = named.get(e, (GREY, None))
            label = f"expert {e}: {load[-1]:.1%} at the end" if e in named else None
            axes.plot(
                steps, load, color=color, marker=marker, markersize=3, linewidth=1.4 if e in named else 0.8, label=label
            )
        axes.axhline(1 / loads.shape[1], color=INK, linestyle=":", linewidth=1.2, label="an even share")
        axes.set_title(layer, fontsize=11, fontweight="bold", loc="left")
        axes.set_xlabel("step")
        axes.set_ylim(0, 1.05 * highest)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), frameon=False, fontsize=8)
    figure.suptitle("share of the selections", fontsize=10)
    save(figure, path)


def _of_kind(records: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    by_step = {record["step"]: record for record in records if record.get("kind") == kind}
    return [by_step[step] for step in sorted(by_step)]


def _column(records: list[dict[str, Any]], key: str) -> NDArray[np.float64]:
    """One value of every record; NaN, which is not drawn, where it is absent, null or infinite."""
    values = np.array([np.nan if record.get(key) is None else float(record[key]) for record in records])
    return np.where(np.isfinite(values), values, np.nan)


def _best(validation: list[dict[str, Any]]) -> dict[str, Any] | None:
    accuracies = _column(validation, "accuracy")
    return None if np.isnan(accuracies).all() else validation[int(np.nanargmax(accuracies))]


def _plot_training(axes: Axes, records: list[dict[str, Any]], key: str) -> None:
    """The values as they are where they are few; else faint, with their running mean on top."""
    epochs, values = _column(records, "epoch"), _column(records, key)
    kept = ~np.isnan(values)
    epochs, values = epochs[kept], values[kept]
    window = len(values) // 30
    if len(values) == 0:
        return
    if window < 2:
        axes.plot(epochs, values, color=BLUE, marker=".", markersize=4, linewidth=1.4, label="training")
        return
    axes.plot(epochs, values, color=BLUE, linewidth=0.7, alpha=0.3)
    smooth = np.convolve(values, np.full(window, 1 / window), mode="valid")
    label = f"training (mean of {window} records)"
    # A mean belongs in the middle of what it is taken over: at its end it would seem to lag.
    middle = np.convolve(epochs, np.full(window, 1 / window), mode="valid")
    axes.plot(middle, smooth, color=BLUE, linewidth=1.6, label=label)


def _plot_validation(axes: Axes, records: list[dict[str, Any]], key: str, best: dict[str, Any] | None) -> None:
    if records:
        epochs, values = _column(records, "epoch"), _column(records, key)
        axes.plot(epochs, values, color=VERMILLION, marker="o", markersize=4, linewidth=1.6, label="validation")
    if best is None:
        return
    value = _column([best], key)[0]
    if np.isnan(value):
        return
    text = f"{value:.1%}" if key == "accuracy" else f"{value:.3f}"
    label = f"best validation accuracy: epoch {best['epoch']:.4g}"
    axes.axvline(best["epoch"], color=GREY, linestyle=":", linewidth=1.2)
    axes.plot(best["epoch"], value, "*", markersize=14, color=VERMILLION, markeredgecolor=INK, linewidth=0, label=label)
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}
    place: dict[str, Any] = {"xytext": (0, 10 if key == "loss" else -10), "va": "bottom" if key == "loss" else "top"}
    axes.annotate(
        text, (best["epoch"], value), textcoords="offset points", ha="center", fontweight="bold", bbox=box, **place
    )


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a PNG under another name first, so that a full disk or a kill never leaves half a picture."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        FigureCanvasAgg(figure)
        # Without the version of matplotlib in it, the same data give the same bytes.
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
