"""What each branch of the network looks at: the gradient of the predicted class's logit, branch by branch.

Every branch gets a copy of the picture of its own, and the gradient is taken with respect to that copy while the others
stay as they are; so the maps of all branches add up to the gradient of the whole network. Each is a mean over noisy
copies of the picture, since the gradient at one picture alone swings from pixel to pixel (SmoothGrad: Smilkov et al.
2017, arXiv 1706.03825, section 3). A gradient says what would change the answer, not what the answer is made of.

Legend: N pictures, B of them at once, H W stored height and width, C colour channels, S side of the network's picture.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data_pipelines.common.text import shorten
from expressnet_jax.config import Config
from expressnet_jax.figures.evaluation import INK, MAX_PICTURES, save
from expressnet_jax.models import preprocess
from expressnet_jax.runs import state as states

#: Noisy copies of each picture, and their noise's standard deviation as a fraction of the picture's range of values:
#: the paper takes 10 to 20 %, and sees little change beyond 50 copies.
_SAMPLES, _NOISE = 16, 0.1
_AT_ONCE = 8  # pictures of one program
_BRIGHTEST = 99  # percentile of a map that has the full colour in its picture, as in the paper's figures

Maps = dict[str, np.ndarray]


def maps(config: Config, state: states.State, images: np.ndarray, predicted: np.ndarray, index: np.ndarray) -> Maps:
    """For each branch (N, H, W) float32: logits per grey level, with their sign.

    A value says by how much the logit rises where the pixel gets one grey level brighter, in all its channels, as this
    branch sees it. The weights are those that would be exported.

    Args:
        images: uint8 (N, H, W, C) as stored, C 1 or 3.
        predicted: (N,) the class whose logit it is, as a number into `config.data.classes`.
        index: (N,) the pictures' numbers in their split; a picture's noise depends on its number alone.
    """
    n = len(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or not n:
        raise ValueError(f"pictures must be uint8 (N, H, W, 1 or 3), got {images.dtype} {images.shape}")
    if predicted.shape != (n,) or index.shape != (n,):
        raise ValueError(f"{n} pictures, predicted of shape {predicted.shape} and index of shape {index.shape}")
    everywhere = state.step.sharding  # whole on every device that the state lies on
    devices = len(everywhere.device_set)
    run = jax.jit(_mean_gradients(config, states.graph(config)), out_shardings=everywhere)
    b = -(-min(n, _AT_ONCE) // devices) * devices  # what is computed on all devices takes a share on each
    parts = []
    for start in range(0, n, b):
        rows = np.arange(start, start + b).clip(max=n - 1)  # the last picture fills up
        found = run(states.weights(state), images[rows], predicted[rows].astype(np.int32), index[rows].astype(np.int32))
        parts.append(jax.tree.map(np.asarray, found))
    return {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}


def shares(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Each branch's part of the absolute values of all maps, mean over the pictures; pictures of 0 alone do not count.

    found: for each branch (N, H, W), as `maps` returns it. The parts add up to 1; they are all 0 where every map is.
    """
    of_pictures = _shares(found)
    counted = of_pictures[of_pictures.sum(1) > 0]
    means = counted.mean(0) if len(counted) else np.zeros(len(found))
    return {name: float(mean) for name, mean in zip(found, means, strict=True)}


def _shares(found: Mapping[str, np.ndarray]) -> np.ndarray:
    """(N, branches): each branch's part of a picture's absolute values."""
    sums = np.stack([np.abs(values).sum((1, 2), dtype=np.float64) for values in found.values()], 1)
    totals = sums.sum(1, keepdims=True)
    return np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)


def _mean_gradients(config: Config, graph: Any) -> Callable[..., dict[str, jax.Array]]:
    """Makes `run(weights, images (B, H, W, C), predicted (B,), index (B,)) -> {branch: (B, H, W)}`."""

    def run(weights: Any, images: jax.Array, predicted: jax.Array, index: jax.Array) -> dict[str, jax.Array]:
        model = nnx.merge(graph, *weights)
        pictures = images.astype(jnp.float32)
        pixels = (1, 2, 3)
        deviation = _NOISE * (pictures.max(pixels, keepdims=True) - pictures.min(pixels, keepdims=True))
        keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(0)))(index)

        def score(views: dict[str, jax.Array]) -> jax.Array:
            """The sum of the logits; each depends on its own picture alone."""
            seen = {
                name: preprocess.preprocess(view, config.model.image_size, config.preprocess).astype(model.dtype)
                for name, view in views.items()
            }
            logits = model.classify(model.features(seen)).logits
            return jnp.take_along_axis(logits, predicted[:, None], 1).sum()

        def add(total: dict[str, jax.Array], number: jax.Array) -> tuple[dict[str, jax.Array], None]:
            def noise(key: jax.Array) -> jax.Array:
                return jax.random.normal(jax.random.fold_in(key, number), pictures.shape[1:])

            noisy = pictures + deviation * jax.vmap(noise)(keys)
            gradients = jax.grad(score)(dict.fromkeys(model.branches, noisy))
            return jax.tree.map(lambda sums, g: sums + g.sum(-1), total, gradients), None

        zeros = {name: jnp.zeros(pictures.shape[:3]) for name in model.branches}
        total, _ = jax.lax.scan(add, zeros, jnp.arange(_SAMPLES))
        return jax.tree.map(lambda sums: sums / _SAMPLES, total)

    return run


def saliency_figure(
    images: np.ndarray, found: Mapping[str, np.ndarray], names: Sequence[str], path: str | os.PathLike[str]
) -> None:
    """One row a picture: the picture with the class whose logit it is, and for each branch the size of its map over it.

    The colour of each map has a scale of its own; the number below is the branch's part of the picture's total.

    Args:
        images: uint8 (N, H, W, C), C 1 or 3 (RGB); N at most MAX_PICTURES.
        found: for each branch (N, H, W), as `maps` returns it.
        names: the classes' names (N,).
        path: the PNG file to write.
    """
    n = len(images)
    if not 1 <= n <= MAX_PICTURES or len(names) != n or any(values.shape[0] != n for values in found.values()):
        sizes = [values.shape[0] for values in found.values()]
        raise ValueError(f"{n} pictures, {len(names)} names, maps of {sizes}: one of each, 1 to {MAX_PICTURES}")
    side, caption, header = 1.5, 0.25, 0.6  # inches
    width, height = (1 + len(found)) * side + 0.2, n * (side + caption) + header
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(n, 1 + len(found), squeeze=False)
    parts, averages = _shares(found), shares(found)
    for row, picture, name, part, *values in zip(grid, images, names, parts, *found.values(), strict=True):
        _draw(row[0], picture, shorten(name, 20))
        for axes, of_branch, share in zip(row[1:], values, part, strict=True):
            _draw(axes, picture, f"{share:.0%}")
            _cover(axes, of_branch)
    titles = ["picture", *(f"{name} {averages[name]:.0%}" for name in found)]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9, fontweight="bold", parse_math=False)
    figure.text(
        0.1 / width, 1 - 0.2 / height, "what would change the answer", fontsize=11, fontweight="bold", va="center"
    )
    figure.subplots_adjust(
        left=0.05 / width, right=1 - 0.05 / width, bottom=caption / height, top=1 - header / height,
        wspace=0.05, hspace=caption / side,
    )  # fmt: skip
    save(figure, path)


def _draw(axes: Axes, picture: np.ndarray, caption: str) -> None:
    axes.imshow(picture if picture.shape[2] == 3 else picture[..., 0], cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlabel(caption, fontsize=8, color=INK, labelpad=2, parse_math=False)


def _cover(axes: Axes, values: np.ndarray) -> None:
    """The size of a map (H, W) in colour, the larger the less is seen through it."""
    sizes = np.abs(values)
    top = np.percentile(sizes, _BRIGHTEST) or sizes.max() or 1.0
    strength = np.clip(sizes / top, 0, 1)
    axes.imshow(np.zeros_like(strength), cmap="gray", vmin=0, vmax=1, alpha=0.35)
    axes.imshow(strength, cmap="inferno", vmin=0, vmax=1, alpha=strength)
