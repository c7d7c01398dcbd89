"""Random changes to training pictures, on the device and inside the jitted step.

Every random number of an example comes from fold_in(key, index), where the key is made from (seed, step). So what
happens to a picture depends on (seed, step, example) alone: not on its place in the batch, nor on devices, hosts or
workers. (Only mixup's partner is the picture before it in the batch.)

Legend: B image, S side, C channel (1 grey, or 3: RGB), K random numbers of an example, N classes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from expressnet_jax.config import Augment

LUMA = np.asarray((0.299, 0.587, 0.114), np.float32)  # grey of an RGB picture (ITU-R BT.601)
ERASE_AREA = (0.02, 0.2)  # of the picture
ERASE_ASPECT = (0.3, 3.3)  # height / width

# One column of uniform numbers for each choice: turning one change on or off leaves the others' numbers as they were.
_DRAWS = (
    *("flip", "scale", "crop_y", "crop_x", "shift_y", "shift_x", "angle", "brightness", "contrast", "saturation"),
    *("erase", "erase_area", "erase_aspect", "erase_y", "erase_x"),
)
_UNIFORMS, _NOISE, _MIXUP = range(3)  # the streams of an example's key

Draws = dict[str, jax.Array]  # name -> (B,) uniform in [0, 1)


def augment(
    images: jax.Array, labels_one_hot: jax.Array, indices: jax.Array, key: jax.Array, config: Augment
) -> tuple[jax.Array, jax.Array]:
    """Applies what `config` turns on: geometry, colour, erasing, mixup, in this order.

    images: (B, S, S, C) float32 in 0..255, already of the network's size. labels_one_hot: (B, N) float32, rows that
    sum to 1. indices: (B,) int32, each example's number in its split. key: a threefry key made from (seed, step).
    Returns pictures and targets of the same shapes, types and ranges; with everything off, the inputs themselves.
    """
    if config == Augment():
        return images, labels_one_hot
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)  # (B,)
    values = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, _UNIFORMS), (len(_DRAWS),)))(keys)
    draws = {name: values[:, i] for i, name in enumerate(_DRAWS)}
    images = _colour(_geometry(images, draws, config), draws, config)
    if config.erase:
        images = _erase(images, draws, keys, config.erase)
    if config.mixup:
        return _mixup(images, labels_one_hot, keys, config.mixup)
    return images, labels_one_hot


def affine_matrices(draws: Draws, side: int, config: Augment) -> jax.Array:
    """(B, 2, 3) float32: the pixel of the source, (y, x), is matrix @ (y, x, 1) for a pixel (y, x) of the result.

    Read from the result's side: mirror, turn by the angle, scale by the crop's side length, then move to the crop's
    centre plus the shift; all about the picture's centre. A crop lies inside the picture (or, if it is larger than the
    picture, the picture inside it).
    """
    scale = 1 + config.crop * _symmetric(draws["scale"])
    room = jnp.abs(1 - scale) / 2
    move_y, move_x = (
        side * (room * _symmetric(draws[f"crop_{axis}"]) + config.shift * _symmetric(draws[f"shift_{axis}"]))
        for axis in "yx"
    )
    angle = jnp.deg2rad(config.rotate) * _symmetric(draws["angle"])
    cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
    mirror = jnp.where(draws["flip"] < 0.5, -1.0, 1.0) if config.flip else jnp.ones_like(scale)
    centre = (side - 1) / 2
    yy, yx, xy, xx = cos, -sin * mirror, sin, cos * mirror
    to_y = centre - (yy + yx) * centre + move_y
    to_x = centre - (xy + xx) * centre + move_x
    return jnp.stack([jnp.stack([yy, yx, to_y], -1), jnp.stack([xy, xx, to_x], -1)], -2).astype(jnp.float32)


def warp(images: jax.Array, matrices: jax.Array) -> jax.Array:
    """Bilinear sampling with replicated edges: (B, S, S, C) float32, (B, 2, 3) of `affine_matrices` -> (B, S, S, C)."""
    return jax.vmap(_warp_one)(images, matrices)


def _warp_one(image: jax.Array, matrix: jax.Array) -> jax.Array:
    side, _, channels = image.shape
    out = jnp.arange(side, dtype=jnp.float32)
    y, x = (
        jnp.clip(matrix[i, 0] * out[:, None] + matrix[i, 1] * out[None, :] + matrix[i, 2], 0, side - 1) for i in (0, 1)
    )  # (S, S) each
    # The last row and column are reached as the far end of a cell, with weight 1, so that every cell has four corners.
    y0, x0 = (jnp.minimum(jnp.floor(v), side - 2) for v in (y, x))
    fy, fx = (y - y0)[..., None], (x - x0)[..., None]  # (S, S, 1)
    corner = y0.astype(jnp.int32) * side + x0.astype(jnp.int32)
    pixels = image.reshape(side * side, channels)
    # XLA fuses the four takes and the sums over them into one loop over the result.
    a, b, c, d = (pixels.at[corner + k].get(mode="promise_in_bounds") for k in (0, 1, side, side + 1))
    return (a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + d * fx) * fy


def _symmetric(u: jax.Array) -> jax.Array:
    """Uniform in [0, 1) -> uniform in [-1, 1)."""
    return 2 * u - 1


def _geometry(images: jax.Array, draws: Draws, config: Augment) -> jax.Array:
    if config.crop or config.shift or config.rotate:
        return warp(images, affine_matrices(draws, images.shape[1], config))
    if config.flip:
        return jnp.where(_per_image(draws["flip"] < 0.5), images[:, :, ::-1], images)
    return images


def _colour(images: jax.Array, draws: Draws, config: Augment) -> jax.Array:
    """Brightness, then contrast about the picture's mean, then saturation about its grey; clipped once, at the end."""

    def factor(name: str) -> jax.Array:
        return _per_image(1 + getattr(config, name) * _symmetric(draws[name]))

    changed = images * factor("brightness") if config.brightness else images
    if config.contrast:
        mean = changed.mean((1, 2, 3), keepdims=True)  # (B, 1, 1, 1)
        changed = mean + (changed - mean) * factor("contrast")
    if config.saturation and images.shape[-1] == 3:
        grey = (changed * LUMA).sum(-1, keepdims=True)  # (B, S, S, 1)
        changed = grey + (changed - grey) * factor("saturation")
    return images if changed is images else jnp.clip(changed, 0, 255)


def _erase(images: jax.Array, draws: Draws, keys: jax.Array, probability: float) -> jax.Array:
    """Fills one rectangle with uniform noise (random erasing, Zhong et al., arXiv 1708.04896)."""
    side = images.shape[1]
    area = ERASE_AREA[0] + (ERASE_AREA[1] - ERASE_AREA[0]) * draws["erase_area"]
    low, high = np.log(ERASE_ASPECT)
    aspect = jnp.exp(low + (high - low) * draws["erase_aspect"])
    inside = _per_image(draws["erase"] < probability)  # (B, 1, 1, 1), then (B, S, S, 1)
    # The longest side is sqrt(0.2 * 3.3) = 0.81 of the picture's, so every rectangle fits.
    for axis, length, place in ((1, area * aspect, "erase_y"), (2, area / aspect, "erase_x")):
        pixels = jnp.maximum(jnp.round(side * jnp.sqrt(length)), 1)  # (B,)
        start = jnp.floor(draws[place] * (side - pixels + 1))
        at = jnp.arange(side).reshape((1, side, 1, 1) if axis == 1 else (1, 1, side, 1))
        inside = inside & (at >= _per_image(start)) & (at < _per_image(start + pixels))
    noise = jax.vmap(
        lambda key: jax.random.uniform(jax.random.fold_in(key, _NOISE), images.shape[1:], jnp.float32, 0, 255)
    )(keys)  # (B, S, S, C)
    return jnp.where(inside, noise, images)


def _mixup(images: jax.Array, targets: jax.Array, keys: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Mixes each picture and target with the one before it in the batch (mixup, Zhang et al., arXiv 1710.09412)."""
    own = jax.vmap(lambda key: jax.random.beta(jax.random.fold_in(key, _MIXUP), alpha, alpha))(keys)  # (B,), its share
    mixed = images * _per_image(own) + jnp.roll(images, 1, 0) * _per_image(1 - own)
    return mixed, targets * own[:, None] + jnp.roll(targets, 1, 0) * (1 - own[:, None])


def _per_image(values: jax.Array) -> jax.Array:
    """(B,) -> (B, 1, 1, 1)."""
    return values[:, None, None, None]
