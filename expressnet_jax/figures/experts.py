"""The pictures that each expert is surest of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from data_pipelines.common.text import shorten
from expressnet_jax.figures.evaluation import INK, save

_MOST = 16  # experts that one figure shows


def surest_figure(
    pictures: Sequence[np.ndarray | None],
    of_layer: dict[str, Any],
    classes: Sequence[str],
    path: str | os.PathLike[str],
    title: str,
) -> None:
    """One row an expert: its share of the selections, and the pictures that gave it the largest probability.

    Args:
        pictures: for each expert uint8 (n, H, W, C), C 1 or 3 (RGB), in the order of its `surest`; None for none.
        of_layer: what `experts.of` found for the layer.
        classes: the class names.
        path: the PNG file to write.
        title: the layer's name.
    """
    experts = min(len(pictures), _MOST)
    columns = max([len(one) for one in pictures[:experts] if one is not None] or [1])
    width, height = 1.6 + 1.05 * columns, 0.6 + 1.3 * experts  # inches
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(experts, columns, squeeze=False)
    for e, row in enumerate(grid):
        for axes in row:
            axes.axis("off")
        label = f"expert {e}\n{of_layer['load'][e]:.1%} of the\nselections"
        row[0].text(-0.15, 0.5, label, transform=row[0].transAxes, ha="right", va="center", fontsize=8, color=INK)
        shown = pictures[e]
        if shown is None:
            row[0].text(0.0, 0.5, "nobody's first choice", transform=row[0].transAxes, va="center", fontsize=8)
            continue
        for axes, picture, one in zip(row, shown, of_layer["surest"][e], strict=False):
            axes.imshow(picture if picture.shape[2] == 3 else picture[..., 0], cmap="gray", vmin=0, vmax=255)
            name = shorten(classes[one["label"]], 11)
            axes.set_title(f"{name} {one['probability']:.0%}", fontsize=7, pad=2, parse_math=False)
    more = f" (the first {_MOST} of {len(pictures)} experts)" if len(pictures) > _MOST else ""
    heading = f"{title}: surest pictures{more}"
    figure.text(0.02, 1 - 0.25 / height, heading, va="center", fontsize=11, fontweight="bold")
    figure.subplots_adjust(left=1.5 / width, right=0.99, bottom=0.01, top=1 - 0.6 / height)
    save(figure, path)
