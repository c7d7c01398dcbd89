"""What all figures are drawn with: colours, axes, grids of pictures, and PNG files.

Drawn with matplotlib's objects, never through pyplot: no display is looked for, no global list of figures grows, and
threads do not meet. The colours are Okabe and Ito's, which stay apart for colour-blind readers, and nothing is told by
colour alone.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from data_pipelines.common.files import replacing

BLUE, VERMILLION, GREY, INK, FAINT = "#0072B2", "#D55E00", "#8A8A8A", "#222222", "#E5E5E5"
_DPI = 150


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG, whole or not at all, and the folders that lead to it. The same data give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=_DPI, metadata={"Software": None})  # without matplotlib's version


def plots(width: float, height: float, count: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches, and its axes side by side."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for one in axes:
        lighten(one, FAINT)
        one.spines[["left", "bottom"]].set_visible(True)
    return figure, axes


def lighten(axes: Axes, lines: str) -> None:
    """Takes the frame away and puts thin lines of one colour behind what is drawn."""
    axes.grid(color=lines, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def entitle(axes: Axes, title: str, size: float = 11) -> None:
    """A bold title above the left end of the axes."""
    axes.set_title(title, fontsize=size, fontweight="bold", loc="left", parse_math=False)


def tiles(rows: int, columns: int, shape: tuple[int, ...], width: float) -> tuple[Figure, Any]:
    """A figure and its (rows, columns) axes, each for a picture of shape (H, W), `width` inches wide, and a caption."""
    figure = Figure(figsize=(columns * (width + 0.1), rows * (width * shape[0] / shape[1] + 0.3) + 0.5))
    figure.set_layout_engine("compressed", w_pad=0.05, h_pad=0.02)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure, grid


def show(axes: Axes, picture: np.ndarray, caption: str = "", **look: Any) -> None:
    """Draws a uint8 picture (H, W, C), C 1 or 3 (RGB), with a caption below it; look: of the caption."""
    axes.imshow(np.broadcast_to(picture, (*picture.shape[:2], 3)))
    axes.set_xlabel(caption, **{"fontsize": 7.5, "color": INK, "labelpad": 2, "parse_math": False, **look})


def head(figure: Figure, title: str) -> None:
    """A bold line above all, from the left."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", parse_math=False)
