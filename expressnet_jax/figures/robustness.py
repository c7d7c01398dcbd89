"""Pictures of robustness: what each corruption looks like, and how the accuracy falls with its strength."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike

from expressnet_jax.evaluation import corruptions
from expressnet_jax.evaluation.corruptions import STRENGTHS
from expressnet_jax.figures.evaluation import GREY, INK, save

# Okabe and Ito's colours, but for their yellow, which is too pale for a line on white; each with a marker of its own.
_LINES = (
    ("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"),
    ("#222222", "X"),
)  # fmt: skip

_EXAMPLE = 1  # what is drawn by chance is drawn for this one, whose eyes are covered


def grid_figure(image: ArrayLike, path: str | os.PathLike[str]) -> None:
    """One picture under every corruption (rows) at every strength (columns), drawn as one example's is.

    image: (H, W, C) uint8, C 1 or 3 (RGB). Raises ValueError for anything else.
    """
    picture = np.asarray(image)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] not in (1, 3):
        raise ValueError(f"the picture must be uint8 (H, W, 1 or 3), got {picture.dtype} {picture.shape}")
    corrupt = jax.jit(corruptions.stored, static_argnums=0)
    names = list(corruptions.CORRUPTIONS)
    # All lengths are inches: one axes that fills the figure, with data units of an inch.
    width, gap, left, top = 1.2, 0.06, 1.35, 0.3
    height = width * picture.shape[0] / picture.shape[1]
    total = (left + len(STRENGTHS) * (width + gap), top + len(names) * (height + gap))
    figure = Figure(figsize=total)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    for column, strength in enumerate(STRENGTHS):
        x = left + column * (width + gap)
        said = f"strength {strength}" if strength else "as it is"
        axes.text(x + width / 2, top / 2, said, ha="center", va="center", fontsize=9, color=INK)
        for row, name in enumerate(names):
            y = top + row * (height + gap)
            changed = np.asarray(corrupt(name, jnp.asarray(picture[None]), jnp.array([_EXAMPLE]), strength))[0]
            shown = np.broadcast_to(changed, (*changed.shape[:2], 3))
            axes.imshow(shown, extent=(x, x + width, y + height, y), interpolation="nearest")
    for row, name in enumerate(names):
        y = top + row * (height + gap) + height / 2
        axes.text(left - 0.1, y, _said(name), ha="right", va="center", fontsize=10, fontweight="bold")
    # Last, because each picture drawn moves the limits.
    axes.set(xlim=(0, total[0]), ylim=(total[1], 0), aspect="auto")
    save(figure, path)


def curves_figure(robustness: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Accuracy over strength, a line for each corruption with its name at its end (`robustness.measure`)."""
    strengths, rows = robustness["strengths"], robustness["corruptions"]
    figure = Figure(figsize=(7.5, 4.6), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    axes = figure.subplots()
    top = 1.08 * max(max(row["accuracy"]) for row in rows.values()) or 1.0
    heights = _apart([row["accuracy"][-1] for row in rows.values()], 0.055 * top, 0.03 * top)
    for (name, row), (colour, marker), height in zip(rows.items(), _LINES, heights, strict=True):
        axes.plot(strengths, row["accuracy"], color=colour, marker=marker, markersize=6, linewidth=1.6)
        end, text = strengths[-1] + 0.08, strengths[-1] + 0.3
        axes.plot([end, text - 0.03], [row["accuracy"][-1], height], color=colour, linewidth=1.0, clip_on=False)
        axes.text(text, height, _said(name), color=INK, va="center", fontsize=9)
    plain = next(iter(rows.values()))["accuracy"][0]
    axes.axhline(plain, color=GREY, linestyle=":", linewidth=1.2)
    axes.text(strengths[-1], plain, f"as they are: {plain:.1%}", ha="right", va="bottom", fontsize=8, color=INK)
    axes.set(xlim=(-0.15, strengths[-1] + 1.35), ylim=(0, top), xticks=strengths, ylabel="accuracy")
    axes.set_xlabel("strength of the corruption", x=2.5 / (strengths[-1] + 1.5))
    axes.set_title(
        f"mean {robustness['mean_accuracy']:.1%} on corrupted pictures, "
        f"{robustness['relative']:.0%} of that on pictures as they are ({robustness['examples']:,} examples)",
        fontsize=9.5, loc="left",
    )  # fmt: skip
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="y", color="#E5E5E5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def _apart(heights: list[float], distance: float, floor: float) -> list[float]:
    """Heights for labels near those given, in the same order, at least `distance` from each other, none below `floor`.

    Labels that would meet form a block, centred on the mean of its members' heights.
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    blocks: list[tuple[float, list[int]]] = []  # (height of the lowest label, members)
    for i in order:
        members, low = [i], max(heights[i], floor)
        while blocks and low < blocks[-1][0] + distance * len(blocks[-1][1]):
            members = blocks.pop()[1] + members
            middle = sum(heights[j] for j in members) / len(members)
            low = max(middle - distance * (len(members) - 1) / 2, floor)
        blocks.append((low, members))
    placed = {i: low + distance * n for low, members in blocks for n, i in enumerate(members)}
    return [placed[i] for i in range(len(heights))]


def _said(name: str) -> str:
    return name.replace("_", " ")
