"""Figures made of numbers: curves of training, experts, robustness and a plan's scaling, and the confusion matrix."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from data_pipelines.common.prose import percent
from data_pipelines.common.text import counted, shorten
from expressnet_jax.figures.canvas import BLUE, GREY, INK, VERMILLION, entitle, head, plots, save

# Okabe and Ito's colours, but for their yellow, which is too pale for a line on white; each with a marker of its own.
_LINES = (
    (BLUE, "o"), (VERMILLION, "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"), (INK, "X"),
)  # fmt: skip

_NAMED = 16  # experts of a column beside the axes
_MARKED = 40  # markers of a line at most
_NAME = 12  # characters of a class name that fit beside a matrix
_MAX_NUMBERED = 16  # classes up to which the cells of a confusion matrix carry their numbers

_Records = Sequence[dict[str, Any]]


def training_figure(records: _Records, path: Path) -> None:
    """Loss and accuracy over the epochs of a run, in training and in validation, from its metrics.jsonl.

    The best epoch is that of the highest validation accuracy, whose checkpoint is kept. Records of one step
    that occur twice, as after resuming from an older checkpoint, count once: the last one written holds.
    """
    train, validation = _of_kind(records, "train"), _of_kind(records, "validation")
    accuracies = _column(validation, "accuracy")
    best = None if np.isnan(accuracies).all() else validation[int(np.nanargmax(accuracies))]
    figure, both = plots(10, 4.2, 2)
    for axes, key in zip(both, ("loss", "accuracy"), strict=True):
        entitle(axes, key)
        axes.set_xlabel("epoch")
        _plot_training(axes, train, key)
        _plot_validation(axes, validation, key, best)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # ticks at whole epochs, once there is one
    both[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    if train or validation:
        # Outside the axes: wherever it lay inside, some run's curve would pass behind it.
        figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    else:
        figure.suptitle("nothing recorded yet", color=GREY)
    save(figure, path)


def experts_figure(records: _Records, path: Path) -> None:
    """Each expert's share of the selections over the steps of a run, layer by layer, from its metrics.jsonl.

    Every expert has a colour of its own, the same in all layers, and its share at the end beside its name, the busiest
    first; a dotted line is the even share.
    """
    train = [record for record in _of_kind(records, "train") if any(key.endswith("/load") for key in record)]
    layers = [key.removesuffix("/load") for key in train[0] if key.endswith("/load")] if train else []
    if not layers:
        return
    experts = max(len(train[0][f"{layer}/load"]) for layer in layers)
    columns = -(-experts // _NAMED)
    figure, panels = plots((4.2 + 1.4 * columns) * len(layers), 3.8, len(layers))
    steps = [record["step"] for record in train]
    highest = max(max(record[f"{layer}/load"]) for record in train for layer in layers)
    looks, rare = _looks(experts), -(-len(steps) // _MARKED)
    for axes, layer in zip(panels, layers, strict=True):
        loads = np.array([record[f"{layer}/load"] for record in train])  # (records, experts)
        for e in np.argsort(-loads[-1], kind="stable"):
            axes.plot(
                steps, loads[:, e], label=f"expert {e}: {loads[-1, e]:.1%}", linewidth=1.4, markevery=rare, **looks[e]
            )
        axes.axhline(1 / loads.shape[1], color=INK, linestyle=":", linewidth=1.2, label="an even share")
        entitle(axes, layer)
        axes.set(xlabel="step", ylim=(0, 1.05 * highest))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "ncols": columns}
        axes.legend(frameon=False, fontsize=7.5, title="at the end", title_fontsize=7.5, **beside)
    figure.suptitle("share of the selections", fontsize=10)
    save(figure, path)


def _looks(count: int) -> list[dict[str, Any]]:
    """Colour and marker of so many lines: `_LINES`, or where these do not suffice, hues around the circle."""
    if count <= len(_LINES):
        return [{"color": color, "marker": marker, "markersize": 3} for color, marker in _LINES[:count]]
    # Neighbours in number are far apart in hue, and every second one is darker.
    hues = [(e * 0.618034) % 1 for e in range(count)]
    markers = [marker for _, marker in _LINES]
    return [
        {"color": hsv_to_rgb((hue, 0.85, 0.85 if e % 2 else 0.6)), "marker": markers[e % len(markers)], "markersize": 3}
        for e, hue in enumerate(hues)
    ]


def _of_kind(records: _Records, kind: str) -> list[dict[str, Any]]:
    by_step = {record["step"]: record for record in records if record.get("kind") == kind}
    return [by_step[step] for step in sorted(by_step)]


def _column(records: _Records, key: str) -> NDArray[np.float64]:
    """One value of every record; NaN, which is not drawn, where it is absent, null or infinite."""
    values = np.array([np.nan if record.get(key) is None else float(record[key]) for record in records])
    return np.where(np.isfinite(values), values, np.nan)


def _plot_training(axes: Axes, records: _Records, key: str) -> None:
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
    # A mean belongs in the middle of what it is taken over: at its end it would seem to lag.
    middle, smooth = (np.convolve(x, np.full(window, 1 / window), mode="valid") for x in (epochs, values))
    axes.plot(middle, smooth, color=BLUE, linewidth=1.6, label=f"training (mean of {window} records)")


def _plot_validation(axes: Axes, records: _Records, key: str, best: dict[str, Any] | None) -> None:
    if records:
        epochs, values = _column(records, "epoch"), _column(records, key)
        axes.plot(epochs, values, color=VERMILLION, marker="o", markersize=4, linewidth=1.6, label="validation")
    value = np.nan if best is None else _column([best], key)[0]
    if best is None or np.isnan(value):
        return
    label = f"best validation accuracy: epoch {best['epoch']:.4g}"
    axes.axvline(best["epoch"], color=GREY, linestyle=":", linewidth=1.2)
    axes.plot(best["epoch"], value, "*", markersize=14, color=VERMILLION, markeredgecolor=INK, linewidth=0, label=label)
    place: dict[str, Any] = {"xytext": (0, 10), "va": "bottom"} if key == "loss" else {"xytext": (0, -10), "va": "top"}
    axes.annotate(
        f"{value:.3f}" if key == "loss" else f"{value:.1%}", (best["epoch"], value), textcoords="offset points",
        ha="center", fontweight="bold", bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5},
        **place,
    )  # fmt: skip


def robustness_figure(robustness: dict[str, Any], path: Path) -> None:
    """Accuracy over strength, a line for each corruption with its name at its end.

    robustness: "strengths", "corruptions" ({name: {"accuracy": a value for each strength}}), "mean_accuracy",
    "relative" and "examples" of an evaluation.
    """
    strengths, rows = robustness["strengths"], robustness["corruptions"]
    figure, (axes,) = plots(7.5, 4.6)
    plain = next(iter(rows.values()))["accuracy"][0]
    axes.axhline(plain, color=GREY, linestyle=":", linewidth=1.2)
    axes.text(strengths[-1], plain, f"as they are: {plain:.1%}", ha="right", va="bottom", fontsize=8, color=INK)
    looks = zip(rows.items(), _LINES, strict=True)
    # The best at the end comes first, so that the legend has the order of the lines' ends.
    for (name, row), (colour, marker) in sorted(looks, key=lambda one: -one[0][1]["accuracy"][-1]):
        label = f"{row['accuracy'][-1]:.1%} {name.replace('_', ' ')}"
        axes.plot(strengths, row["accuracy"], color=colour, marker=marker, markersize=6, linewidth=1.6, label=label)
    axes.set(
        ylim=(0, 1.08 * max(max(row["accuracy"]) for row in rows.values()) or 1.0), xticks=strengths,
        xlabel="strength of the corruption", ylabel="accuracy",
    )  # fmt: skip
    axes.set_title(
        f"mean {robustness['mean_accuracy']:.1%} on corrupted pictures, "
        f"{robustness['relative']:.0%} of that on pictures as they are ({robustness['examples']:,} examples)",
        fontsize=9.5, loc="left",
    )  # fmt: skip
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    figure.legend(loc="outside right center", frameon=False, title=f"at strength {strengths[-1]}")
    save(figure, path)


def scaling_figure(plan: dict[str, Any], path: Path) -> None:
    """A plan's bound on images/s against chips: communication hidden, or not at all, and the ideal, all logarithmic."""
    inside = plan["scaling"]
    rows = [*inside, *(row for row in plan.get("several_slices", ()) if row["chips"] > inside[-1]["chips"])]
    chips = [row["chips"] for row in rows]
    hidden, open_ = ([row["images_per_second"][key] for row in rows] for key in ("overlapped", "not_overlapped"))
    figure, (axes,) = plots(7.5, 4.8)
    axes.plot(chips, [hidden[0] * n / chips[0] for n in chips], color=GREY, linestyle=":", linewidth=1.4, label="ideal")
    axes.plot(chips, hidden, color=BLUE, marker="o", markersize=4, label="communication hidden")
    axes.plot(chips, open_, color=VERMILLION, marker="s", markersize=4, label="communication not hidden")
    axes.fill_between(chips, open_, hidden, color=BLUE, alpha=0.12, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=10)
    axes.set_xticks(chips, [f"{n:,}" for n in chips], rotation=45 if len(chips) > 9 else 0)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(LogLocator(10, subs=(2, 5)))
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for row, before in zip(rows[1:], rows, strict=False):
        if row["slices"] > 1 and before["slices"] == 1:  # where the slower network begins
            x = (row["chips"] * before["chips"]) ** 0.5
            axes.axvline(x, color=GREY, linewidth=0.8)
            label = "  several slices" if plan["machine"]["platform"] == "tpu" else "  several hosts"
            axes.annotate(label, (x, axes.get_ylim()[0]), fontsize=8, va="bottom")
    each = f"{plan['config']['batch_per_device']} pictures a chip, not measured"
    entitle(axes, f"{plan['machine']['name']}: a bound on images/s, {each}", 10)
    axes.set(xlabel="chips", ylabel="images/s at most")
    axes.legend(frameon=False, loc="upper left")
    save(figure, path)


def confusion_figure(summary: dict[str, Any], path: Path, title: str = "") -> None:
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
        f"accuracy {percent(summary['accuracy'], 1)} (95 % interval {percent(low, 1)} to {percent(high, 1)}), "
        f"macro F1 {percent(summary['macro_f1'], 1)}, {counted(summary['examples'], 'example')}", fontsize=8, color=INK,
    )  # fmt: skip
    save(figure, path)
