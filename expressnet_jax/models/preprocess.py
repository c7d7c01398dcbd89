"""From stored pictures to what the network sees: resize, channels, colour order, scale. Runs inside the jitted step.

Legend: B image, H W stored height and width, S side of the network's picture, C channel (1 grey, or 3: RGB).
"""

import jax
import jax.numpy as jnp
import numpy as np

from expressnet_jax.config import ConfigError, Preprocess

#: Mean of VGGFace2's training pictures, per channel in BGR order, on the scale 0-255 (Cao et al., arXiv 1710.08092;
#: the numbers are those of the authors' released preprocessing).
VGGFACE2_MEAN_BGR = (91.4953, 103.8827, 131.0912)
#: Mean and deviation of ImageNet's training pictures, in RGB order, on the scale 0-1, as torchvision has them.
IMAGENET_RGB = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: What `per_image` adds to a picture's deviation, on the scale 0-255: the noise of a blank picture is not blown up.
FLAT = 8.0


def resize(images: jax.Array, size: int, *, antialias: bool) -> jax.Array:
    """(B, H, W, C), uint8 or float, in 0..255 -> (B, size, size, C) float32 in 0..255, not rounded.

    Bilinear with half-pixel centres, as OpenCV's INTER_LINEAR. `antialias` widens the triangle where a picture is made
    smaller, as Pillow does. The sides are scaled independently: a picture that is not square is stretched.
    """
    x = images.astype(jnp.float32)
    b, h, w, c = x.shape
    if (h, w) == (size, size):
        return x
    return jax.image.resize(x, (b, size, size, c), "bilinear", antialias=antialias)


def channels(stored: int, config: Preprocess) -> int:
    """Channels of the network's input: a grey picture keeps its one where all three would be equal."""
    return 3 if config.normalize in ("vggface2", "imagenet") else stored


def normalize(images: jax.Array, config: Preprocess) -> jax.Array:
    """(B, S, S, C) in 0..255, grey or RGB -> (B, S, S, C) float32 in the network's colour order and scale.

    Grey is repeated where the channels' scales differ; else it stays one channel, which the network counts once.
    `unit` gives 0..1, `standard` (x / 255 - mean) / std, `vggface2` 0..255 minus the channel means, `per_image`
    (x - m) / (s + FLAT) with mean m and deviation s over all pixels and channels of the picture itself.
    """
    if config.color_order not in ("rgb", "bgr"):
        raise ConfigError(f"preprocess.color_order is {config.color_order!r}; use rgb or bgr")
    x = images.astype(jnp.float32)
    bgr = config.color_order == "bgr"
    if x.shape[-1] == 1:
        x = jnp.broadcast_to(x, (*x.shape[:-1], channels(1, config)))  # (B, S, S, 1 or 3)
    elif bgr:
        x = x[..., ::-1]
    if config.normalize == "unit":
        return x / 255
    if config.normalize == "standard":
        return (x / 255 - config.mean) / config.std
    if config.normalize == "vggface2":
        return x - np.asarray(VGGFACE2_MEAN_BGR if bgr else VGGFACE2_MEAN_BGR[::-1], np.float32)
    if config.normalize == "imagenet":
        mean, std = (np.asarray(v[::-1] if bgr else v, np.float32) for v in IMAGENET_RGB)
        return (x / 255 - mean) / std
    if config.normalize == "per_image":
        whole = (1, 2, 3)
        return (x - x.mean(whole, keepdims=True)) / (x.std(whole, keepdims=True) + FLAT)
    raise ConfigError(
        f"preprocess.normalize is {config.normalize!r}; use unit, standard, vggface2, imagenet or per_image"
    )


def preprocess(images: jax.Array, image_size: int, config: Preprocess) -> jax.Array:
    """(B, H, W, C) as stored, in 0..255, grey or RGB -> (B, S, S, 1 or 3) float32, the network's input."""
    return normalize(resize(images, image_size, antialias=config.antialias), config)
