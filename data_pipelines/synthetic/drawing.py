"""From factors to a picture: paints the layers, lights them, and passes them through a camera."""

import numpy as np
from PIL import Image, ImageColor, ImageFilter

from data_pipelines.synthetic import features, surroundings
from data_pipelines.synthetic.canvas import Canvas, Palette
from data_pipelines.synthetic.factors import Factors
from data_pipelines.synthetic.head import Head, eye_shape, mouth_shape, side_units

_SIDES = (-1, 1)


def draw(factors: Factors, size: int) -> np.ndarray:
    """Paints one face.

    Args:
        factors: what to paint; `label` and `label_id` are not read.
        size: width and height of the picture in pixels, at least 16.

    Returns:
        uint8 (size, size, 3), RGB. Equal factors and size give equal bytes.
    """
    if size < 16:
        raise ValueError(f"a face of {size} pixels cannot be drawn; ask for 16 or more")
    oversampling = 4 if size <= 160 else 2
    side = size * oversampling
    canvas = Canvas(side, ImageColor.getrgb(factors.background))
    head = Head(factors, side)
    _paint(canvas, head, Palette(factors), factors)
    pixels = np.asarray(canvas.image.reduce(oversampling), dtype=np.float32)
    coverage = np.asarray(canvas.lit.reduce(oversampling // 2), dtype=np.float32) / 255
    return _camera(_light(pixels, coverage, head, factors, 1 / oversampling), factors)


def _paint(canvas: Canvas, head: Head, colours: Palette, factors: Factors) -> None:
    """All layers, from the back to the front."""
    outline = head.silhouette()
    surroundings.paint_back(canvas, head, colours, factors)
    for side in _SIDES:
        surroundings.paint_ear(canvas, head, colours, side)
    canvas.polygon(outline, colours.skin, lit=True)
    units = {side: side_units(factors, side) for side in _SIDES}
    mean = {unit: 0.5 * (units[-1][unit] + units[1][unit]) for unit in units[1]}
    eyes = {side: eye_shape(factors, units[side], side) for side in _SIDES}
    lips = mouth_shape(factors, units[-1], units[1], mean)
    relief = features.Sketch()
    features.sketch_stubble(relief, factors)
    for side in _SIDES:
        features.sketch_socket(relief, units[side], eyes[side], side)
    features.sketch_nose_relief(relief, factors)
    features.sketch_chin(relief, lips, mean)
    relief.paint(canvas, head)
    soft = 0.045 * head.unit
    tones = (("blush", colours.blush, 2 * soft), ("shadow", colours.shade, soft), ("light", colours.light, soft))
    canvas.lay_tones(outline, tones)
    face = features.Sketch()
    for side in _SIDES:
        features.sketch_furrows(face, colours, factors, units[side], side)
        features.sketch_mouth_lines(face, colours, lips, units[side], side)
    features.sketch_nose(face, colours, factors, mean[9])
    features.sketch_mouth(face, colours, lips, mean)
    for side in _SIDES:
        features.sketch_eye(face, colours, eyes[side], units[side])
        features.sketch_brow(face, colours, factors, units[side], side)
    face.paint(canvas, head)
    surroundings.paint_hair(canvas, head, colours, factors)
    if factors.glasses != "none":
        surroundings.paint_glasses(canvas, head, factors)
    if factors.covering == "mask":
        surroundings.paint_mask(canvas, head, factors)
    elif factors.covering != "none":
        surroundings.paint_hand(canvas, head, colours, factors)


def _light(pixels: np.ndarray, coverage: np.ndarray, head: Head, factors: Factors, ratio: float) -> np.ndarray:
    """Shades the subject by the angle between the head's surface and the light, the background by its slope.

    `coverage` (size, size) in [0, 1] is how much of a pixel the subject fills; `ratio` is picture over canvas pixels.
    """
    size = len(pixels)
    position = np.arange(size, dtype=np.float32) + 0.5
    radius = head.unit * ratio
    x = np.clip((position - head.centre[0] * ratio) / (0.86 * radius), -1, 1)[None, :]
    y = np.clip((position - head.centre[1] * ratio) / (1.12 * radius), -1, 1)[:, None]
    z = np.sqrt(np.maximum(0.0, 1 - x**2 - y**2))
    azimuth, elevation = np.radians(factors.light_azimuth), np.radians(factors.light_elevation)
    level = np.cos(elevation)
    length = np.sqrt(x**2 + y**2 + z**2)  # above 1 only beside the head, where shoulders are
    facing = (x * (level * np.sin(azimuth)) - y * np.sin(elevation) + z * (level * np.cos(azimuth))) / length
    # Half-Lambert: light wraps round a head that stands in a room, and the far side darkens gradually. 1.2 is about the
    # mean over a head lit from the front, so that strength changes contrast more than exposure.
    shade = 1 + factors.light_strength * (1.6 * np.maximum(0.5 + 0.5 * facing, 0.0) ** 1.3 - 1.2)
    back = 1 + factors.background_slope * (2 * position[:, None] / size - 1)
    gain = factors.brightness * (back + coverage * (shade - back))
    return pixels * gain[..., None]


def _camera(pixels: np.ndarray, factors: Factors) -> np.ndarray:
    """Blur of the lens, then noise of the sensor, then eight bits."""
    size = len(pixels)
    if factors.blur > 0:
        soft = Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))
        soft = soft.filter(ImageFilter.GaussianBlur(factors.blur * size / 48))
        pixels = np.asarray(soft, dtype=np.float32)
    if factors.noise > 0:
        rng = np.random.default_rng(factors.noise_seed)
        pixels = pixels + factors.noise * rng.standard_normal(pixels.shape, dtype=np.float32)
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
