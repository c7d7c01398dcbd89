"""Figures made of pictures: predictions, what each expert is surest of, corruptions, and what each branch looks at."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from data_pipelines.common.text import shorten
from expressnet_jax.figures.canvas import BLUE, VERMILLION, head, save, show, tiles

MAX_PICTURES = 256  # of one figure; beyond it the file gets too large to look at
_NAME = 12  # characters of a class name that fit under a picture
_MOST = 16  # experts that one figure shows
_BRIGHTEST = 99  # percentile of a map that has the full colour in its picture, as in the figures of SmoothGrad's paper


def predictions_figure(
    images: ArrayLike,
    labels: ArrayLike,
    predictions: ArrayLike,
    probabilities: ArrayLike,
    classes: Sequence[str],
    path: Path,
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
    pictures, truth, guess, chance = _checked(images, labels, predictions, probabilities, len(classes))
    columns = max(4, math.ceil(math.sqrt(len(pictures))))
    figure, grid = tiles(math.ceil(len(pictures) / columns), columns, pictures.shape[1:3], 1.4)
    for i, (axes, picture) in enumerate(zip(grid.flat, pictures, strict=False)):
        answer, true = (shorten(classes[numbers[i]], _NAME) for numbers in (guess, truth))
        if guess[i] == truth[i]:
            colour, width, caption = BLUE, 1, f"\u2713 {answer} {chance[i]:.0%}"
        else:
            colour, width, caption = VERMILLION, 3, f"\u2717 {answer} {chance[i]:.0%}\ntrue: {true}"
        show(axes, picture, caption, color=colour, fontweight="normal" if width == 1 else "bold")
        axes.spines[:].set(visible=True, color=colour, linewidth=width)
    right = f"{(truth == guess).sum()} of {len(pictures)} right"
    head(figure, f"{right}   (\u2713 right, \u2717 wrong, with the true class)")
    save(figure, path)


def _checked(
    images: ArrayLike, labels: ArrayLike, predictions: ArrayLike, probabilities: ArrayLike, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pictures, true and predicted classes, and the probability of each predicted class."""
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
    return pictures, truth, guess, chances[np.arange(number), guess]


def surest_figure(
    pictures: Sequence[np.ndarray | None], of_layer: dict[str, Any], classes: Sequence[str], path: Path, title: str
) -> None:
    """One row an expert: its share of the selections, and the pictures that gave it the largest probability.

    Args:
        pictures: for each expert uint8 (n, H, W, C), C 1 or 3 (RGB), in the order of its `surest`; None for none.
        of_layer: what the analysis of the experts found for the layer: "load" and "surest" of each expert.
        classes: the class names.
        path: the PNG file to write.
        title: the layer's name.
    """
    rows = pictures[:_MOST]
    shapes = [one.shape for one in rows if one is not None] or [(1, 1, 1, 1)]
    figure, grid = tiles(len(rows), 1 + max(shape[0] for shape in shapes), shapes[0][1:3], 1.0)
    for e, (shown, (name, *places)) in enumerate(zip(rows, grid, strict=True)):
        name.text(0, 0.5, f"expert {e}\n{of_layer['load'][e]:.1%} of the\nselections", va="center", fontsize=8)
        if shown is None:
            places[0].text(0, 0.5, "nobody's first choice", va="center", fontsize=8)
            continue
        for axes, picture, one in zip(places, shown, of_layer["surest"][e], strict=False):
            show(axes, picture, f"{shorten(classes[one['label']], _NAME)} {one['probability']:.0%}")
    more = f" (the first {_MOST} of {len(pictures)} experts)" if len(pictures) > _MOST else ""
    head(figure, f"{title}: surest pictures{more}")
    save(figure, path)


def corruptions_figure(pictures: Mapping[str, Sequence[np.ndarray]], strengths: Sequence[int], path: Path) -> None:
    """One picture under every corruption (rows) at every strength (columns).

    pictures: for each corruption's name one uint8 (H, W, C), C 1 or 3 (RGB), at each strength.
    """
    shape = next(iter(pictures.values()))[0].shape
    figure, grid = tiles(len(pictures), len(strengths), shape, 1.2)
    for axes, strength in zip(grid[0], strengths, strict=True):
        axes.set_title(f"strength {strength}" if strength else "as it is", fontsize=9)
    for row, (name, changed) in zip(grid, pictures.items(), strict=True):
        row[0].set_ylabel(name.replace("_", " "), fontsize=10, fontweight="bold")
        for axes, picture in zip(row, changed, strict=True):
            show(axes, picture)
    save(figure, path)


def saliency_figure(
    images: np.ndarray,
    maps: Mapping[str, np.ndarray],
    parts: np.ndarray,
    averages: Mapping[str, float],
    names: Sequence[str],
    path: Path,
) -> None:
    """One row a picture: the picture with the class whose logit it is, and for each branch the size of its map over it.

    The colour of each map has a scale of its own; the number below is the branch's part of the picture's total.

    Args:
        images: uint8 (N, H, W, C), C 1 or 3 (RGB); N at most MAX_PICTURES.
        maps: for each branch (N, H, W): how much the logit changes with a pixel.
        parts: (N, branches), each branch's part of a picture's total.
        averages: for each branch its part of all pictures.
        names: the classes' names (N,).
        path: the PNG file to write.
    """
    n = len(images)
    if not 1 <= n <= MAX_PICTURES or len(names) != n or any(len(values) != n for values in maps.values()):
        sizes = [len(values) for values in maps.values()]
        raise ValueError(f"{n} pictures, {len(names)} names, maps of {sizes}: one of each, 1 to {MAX_PICTURES}")
    figure, grid = tiles(n, 1 + len(maps), images.shape[1:3], 1.5)
    titles = ["picture", *(f"{name} {averages[name]:.0%}" for name in maps)]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9, fontweight="bold", parse_math=False)
    for (first, *others), picture, name, shares, *values in zip(
        grid, images, names, parts, *maps.values(), strict=True
    ):
        show(first, picture, shorten(name, 20))
        for axes, of_branch, share in zip(others, values, shares, strict=True):
            show(axes, picture, f"{share:.0%}")
            _cover(axes, np.abs(of_branch))
    head(figure, "what would change the answer")
    save(figure, path)


def _cover(axes: Axes, sizes: np.ndarray) -> None:
    """The sizes (H, W) in colour over a picture: the larger, the less is seen through it."""
    top = np.percentile(sizes, _BRIGHTEST) or sizes.max() or 1.0
    strength = np.clip(sizes / top, 0, 1)
    axes.imshow(np.zeros_like(strength), cmap="gray", vmin=0, vmax=1, alpha=0.35)
    axes.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=strength)
