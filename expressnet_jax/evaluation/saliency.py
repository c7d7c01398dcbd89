"""What each branch of the network looks at: the gradient of the predicted class's logit, branch by branch.

Every branch gets a copy of the picture of its own, and the gradient is taken with respect to that copy while the others
stay as they are; so the maps of all branches add up to the gradient of the whole network. Each is a mean over noisy
copies of the picture, since the gradient at one picture alone swings from pixel to pixel (SmoothGrad: Smilkov et al.
2017, arXiv 1706.03825, section 3). A gradient says what would change the answer, not what the answer is made of.

Legend: N pictures, B of them at once, H W stored height and width, C colour channels, S side of the network's picture.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from data_pipelines.common.text import counting
from expressnet_jax.config import Config
from expressnet_jax.models import preprocess
from expressnet_jax.parallel import distributed
from expressnet_jax.runs import state as states

#: Noisy copies of each picture, and their noise's standard deviation as a fraction of the picture's range of values:
#: the paper takes 10 to 20 %, and sees little change beyond 50 copies.
_SAMPLES, _NOISE = 16, 0.1
_AT_ONCE = 8  # pictures of one program

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
    starts = range(0, n, b)
    for start in counting(starts, "saliency", len(starts), unit="batches", hidden=not distributed.is_first()):
        rows = np.arange(start, start + b).clip(max=n - 1)  # the last picture fills up
        found = run(states.weights(state), images[rows], predicted[rows].astype(np.int32), index[rows].astype(np.int32))
        parts.append(jax.tree.map(np.asarray, found))
    return {name: np.concatenate([part[name] for part in parts])[:n] for name in parts[0]}


def shares(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Each branch's part of the absolute values of all maps, mean over the pictures; pictures of 0 alone do not count.

    found: for each branch (N, H, W), as `maps` returns it. The parts add up to 1; they are all 0 where every map is.
    """
    of_pictures = parts(found)
    counted = of_pictures[of_pictures.sum(1) > 0]
    means = counted.mean(0) if len(counted) else np.zeros(len(found))
    return {name: float(mean) for name, mean in zip(found, means, strict=True)}


def parts(found: Mapping[str, np.ndarray]) -> np.ndarray:
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
