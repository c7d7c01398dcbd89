"""From factors to a picture: paints the layers, lights them, and passes them through a camera.

Painted here is what surrounds the face and what hides part of it: shoulders, neck, ears, hair; glasses, a mask, a hand.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageFilter

from data_pipelines.synthetic import features
from data_pipelines.synthetic.canvas import Canvas, Palette, mix, ribbon, scale_colour, spline, taper
from data_pipelines.synthetic.factors import Factors
from data_pipelines.synthetic.head import EYE_Y, Head, eye_shape, mouth_shape, side_units

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
    _paint_back(canvas, head, colours, factors)
    for side in _SIDES:
        _paint_ear(canvas, head, colours, side)
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
    _paint_hair(canvas, head, colours, factors)
    if factors.glasses != "none":
        _paint_glasses(canvas, head, factors)
    if factors.covering == "mask":
        _paint_mask(canvas, head, factors)
    elif factors.covering != "none":
        _paint_hand(canvas, head, colours, factors)


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


class Style(NamedTuple):
    """A hair style: how far it stands off the head, and its hairline from one side to the other.

    The hairline is (azimuth in degrees, height in head units); `fall` is how far hair hangs behind the head, and
    `curl` the size of the bumps of its outline.
    """

    volume: float
    hairline: tuple[tuple[float, float], ...]
    fall: float | None = None
    curl: float = 0.0


def _symmetric(*half: tuple[float, float]) -> tuple[tuple[float, float], ...]:
    """A whole hairline from its left half, whose last point is the middle of the forehead."""
    return half + tuple((-azimuth, y) for azimuth, y in half[-2::-1])


_CROPPED = ((-125, 0.30), (-100, -0.02), (-84, -0.18), (-76, 0.06), (-70, -0.10), (-66, -0.40))
_DRAPED = ((-100, 0.62), (-84, 0.60), (-72, 0.35), (-66, 0.0), (-62, -0.36))
STYLES: dict[str, Style] = {
    "short": Style(1.11, _symmetric(*_CROPPED, (-50, -0.66), (-24, -0.74), (0, -0.72))),
    "parted": Style(
        1.13,
        (*_CROPPED, (-50, -0.58), (-30, -0.68), (18, -0.86), (32, -0.78), (52, -0.66))
        + tuple((-azimuth, y) for azimuth, y in _CROPPED[::-1]),
    ),
    "fringe": Style(1.11, _symmetric(*_CROPPED, (-48, -0.60), (-24, -0.63), (0, -0.62))),
    "curly": Style(1.19, _symmetric(*_CROPPED, (-50, -0.62), (-24, -0.72), (0, -0.70)), curl=0.05),
    "long": Style(1.10, _symmetric(*_DRAPED, (-50, -0.60), (-26, -0.74), (0, -0.86)), fall=1.35),
    "bob": Style(1.12, _symmetric(*_DRAPED, (-52, -0.56), (-28, -0.68), (0, -0.70)), fall=0.72),
    "buzz": Style(1.015, _symmetric(*_CROPPED, (-46, -0.68), (-24, -0.74), (0, -0.74))),
}


def _paint_back(canvas: Canvas, head: Head, colours: Palette, factors: Factors) -> None:
    """What lies behind the face: hanging hair, neck, shoulders."""
    style = STYLES.get(factors.hair_style)
    chin = head.to_picture(0.0, 0.75, -0.05)[0]
    if style is not None and style.fall is not None:
        y = np.linspace(-0.6, style.fall, 8) - np.array((0, 0, 0, 0, 0, 0, 0.04, 0))
        half = np.interp(y, (-0.6, -0.2, 0.4, 1.4), (0.72, 0.84, 0.88, 0.92))
        half *= (1, 1, 1, 1, 1, 1, 0.98, 0.80)  # the ends turn in
        left, right = (spline(head.to_picture(edge, y, -0.15), 14) for edge in (-half, half))
        canvas.polygon(np.concatenate((left, right[::-1])), colours.hair_dark, lit=True)
    unit, far, shirt = head.unit, canvas.side + 2, ImageColor.getrgb(factors.clothes)
    half = np.array(((-0.40, -0.2), (-0.39, 0.25), (-0.47, 0.45), (-0.6, 1.0)))
    neck = np.concatenate((half, (half * (-1, 1))[::-1])) * unit + chin
    canvas.polygon(neck, mix(colours.skin, colours.shade, 0.55), lit=True)
    slope = np.array(((-0.42, 0.40), (-0.75, 0.52), (-1.25, 0.75), (-1.6, 1.6)))
    left, right = spline(slope * unit + chin, 10), spline(slope * (-unit, unit) + chin, 10)
    collar = spline(np.array(((0.42, 0.40), (0.25, 0.56), (0.0, 0.62), (-0.25, 0.56), (-0.42, 0.40))) * unit + chin, 12)
    canvas.polygon(np.concatenate((right, ((far, far), (-2, far)), left[::-1], collar[::-1])), shirt, lit=True)
    canvas.stroke(collar, 0.05 * unit, scale_colour(shirt, 0.72))


def _paint_ear(canvas: Canvas, head: Head, colours: Palette, side: int) -> None:
    """One ear; the side that the head turns away from shows more of it."""
    shown = max(0.0, -side * np.sin(head.yaw))
    wide = 0.07 + 0.10 * shown
    rim = np.array(((0.0, -0.16), (0.7, -0.20), (1.15, -0.10), (1.0, 0.05), (0.6, 0.18), (0.1, 0.22), (-0.3, 0.10)))
    points = spline(np.concatenate((rim, rim[:1])), 20)
    x, y = side * (0.71 + points[:, 0] * wide), 0.05 + points[:, 1]
    place = np.interp(0.05, head.heights, head.widths) / 0.72
    canvas.polygon(head.to_picture(x * place, y, 0.02), mix(colours.skin, colours.blush, 0.18), lit=True)
    inner = spline(rim[1:6] * 0.62 + (0.12, 0.01), 10)
    curve = head.to_picture(side * (0.71 + inner[:, 0] * wide) * place, 0.05 + inner[:, 1], 0.02)
    canvas.stroke(curve, 0.03 * head.unit, mix(colours.skin, colours.fold, 0.6), taper(10))


def _paint_hair(canvas: Canvas, head: Head, colours: Palette, factors: Factors) -> None:
    """Hair over the forehead and the temples, with a sheen and strands that follow the skull."""
    style = STYLES.get(factors.hair_style)
    if style is not None:
        line = np.array(style.hairline) * (1, factors.face_height)
        edge = spline(head.around(line[:, 0], line[:, 1]), 4 * len(line))
        cropped = factors.hair_style == "buzz"
        fill = mix(colours.skin, colours.hair, 0.72) if cropped else colours.hair
        canvas.polygon(np.concatenate((edge, _outer_curve(head, style, line)[::-1])), fill, lit=True)
        if not cropped:
            _paint_strands(canvas, head, colours, style, line)
    if (style is None or style.fall is None) and abs(head.yaw) > 0.05:
        _paint_ear(canvas, head, colours, -1 if head.yaw > 0 else 1)  # the near one, which this hair leaves free


def _outer_curve(head: Head, style: Style, line: np.ndarray) -> np.ndarray:
    """The outline of the hair from its left end over the crown to its right end, pixels (n, 2)."""
    angle = np.linspace(0, np.pi, 48)
    low = np.where(angle < np.pi / 2, line[0, 1], line[-1, 1])
    # Heights run from the ends up to the crown as a sine, so that points are dense where the outline turns.
    y = low + (head.heights[0] - low) * np.sin(angle) ** 0.9
    side = np.where(angle < np.pi / 2, -180.0, 180.0)
    grow = style.volume + style.curl * np.abs(np.sin(angle * 9))
    if style.fall is None:
        # Cropped hair lies on the head beside the ears and stands off above them.
        grow = 1 + (grow - 1) * np.clip((-0.02 - y) / 0.3, 0, 1)
    return head.around(side, y, grow)


def _paint_strands(canvas: Canvas, head: Head, colours: Palette, style: Style, line: np.ndarray) -> None:
    """A band of light across the crown, and strokes swept back from the hairline to one side."""
    inner = line[np.abs(line[:, 0]) < 70]
    count, samples = 9, 9
    place = np.linspace(0.05, 0.95, count)
    grid = np.linspace(0, 1, len(inner))
    azimuth, y = np.interp(place, grid, inner[:, 0])[:, None], np.interp(place, grid, inner[:, 1])[:, None]
    t = np.linspace(0, 1, samples)[None, :]
    turns = azimuth * (1 - 0.25 * t**2) + 26 * t * (1 - 0.3 * t)
    heights = (y - 0.02) * (1 - t) + 0.88 * head.heights[0] * t
    swell = 1 + 0.7 * (style.volume - 1) * t.repeat(count, axis=0).ravel()
    curves = head.around(turns.ravel(), heights.ravel(), swell).reshape(count, samples, 2)
    # The band lies between the hairline and the crown, so it is seen as the curve of the skull.
    band = np.linspace(-52, 40, 12)
    over = 0.55 * head.heights[0] + 0.45 * np.interp(band, inner[:, 0], inner[:, 1])
    sheen = head.around(band, over, 1 + 0.6 * (style.volume - 1))
    canvas.stroke(sheen, 0.085 * head.unit, mix(colours.hair, colours.hair_light, 0.55), taper(12))
    for k, curve in enumerate(curves):
        tint, amount = (colours.hair_dark, 0.5) if k % 2 else (colours.hair_light, 0.3)
        canvas.stroke(curve, (0.035 + 0.015 * (k % 3)) * head.unit, mix(colours.hair, tint, amount), taper(samples))


_FRAME = (34, 30, 32)


def _paint_glasses(canvas: Canvas, head: Head, factors: Factors) -> None:
    """Frames in a plane before the eyes, with a bridge, arms, and a glint; the eyes stay visible."""
    angle = np.linspace(0, 2 * np.pi, 26)
    power, rx, ry = (1.0, 0.205, 0.185) if factors.glasses == "round" else (0.55, 0.225, 0.155)
    c, s = np.cos(angle), np.sin(angle)
    x, y = rx * np.sign(c) * np.abs(c) ** power, EYE_Y + 0.02 + ry * np.sign(s) * np.abs(s) ** power
    front, unit = 0.86, head.unit
    middle = 0.315 * factors.eye_spacing
    for side in (-1, 1):
        rim = head.to_picture(side * middle + x, y, front - 0.25 * np.abs(side * middle + x) ** 2)
        canvas.polygon(ribbon(rim, 0.03 * unit), _FRAME)
        hinge = head.to_picture(side * (middle + rx), EYE_Y - 0.03, 0.78)
        ear = head.around(side * 84.0, -0.08)
        canvas.stroke(np.concatenate((hinge, ear)), 0.035 * unit, _FRAME, np.ones(2))
        glint_x = np.array((-0.10, -0.05)) + side * middle
        glint = head.to_picture(glint_x, np.array((EYE_Y - 0.04, EYE_Y - 0.11)), front)
        canvas.stroke(glint, 0.014 * unit, (232, 236, 240), np.ones(2))
    bridge = np.array(((-middle + rx, EYE_Y - 0.01), (0.0, EYE_Y - 0.05), (middle - rx, EYE_Y - 0.01)))
    curve = spline(bridge, 8)
    canvas.stroke(head.to_picture(curve[:, 0], curve[:, 1], front), 0.03 * unit, _FRAME, np.ones(8))


_MASK_TOP = np.array(((-82, 0.16), (-50, 0.10), (-24, 0.03), (0, -0.03), (24, 0.03), (50, 0.10), (82, 0.16)))
_MASK_BOTTOM = np.array(((82, 0.52), (66, 0.80), (45, 0.97), (0, 1.02), (-45, 0.97), (-66, 0.80), (-82, 0.52)))


def _paint_mask(canvas: Canvas, head: Head, factors: Factors) -> None:
    """A medical mask from the bridge of the nose to under the chin, opaque."""
    colour, unit = ImageColor.getrgb(factors.covering_colour), head.unit
    top, bottom = spline(_MASK_TOP, 20), spline(_MASK_BOTTOM, 20)
    bulge = 1.05
    # The mask hangs over the jaw and follows it down, so that an opened mouth stays behind it.
    bottom_y = np.minimum(bottom[:, 1] + head.drop * np.clip(bottom[:, 1] - 0.4, 0, 1), head.heights[-1] - 0.012)
    upper = head.around(top[:, 0], top[:, 1] / bulge, bulge)
    lower = head.around(bottom[:, 0], bottom_y, bulge)
    for side in (-1, 1):
        for height, corner in ((-0.02, 0.18), (0.18, 0.50)):
            ends = head.around(side * np.array((92.0, 92.0 * 0.88)), np.array((height, corner)))
            canvas.stroke(ends, 0.022 * unit, scale_colour(colour, 0.9), np.ones(2))
    canvas.polygon(np.concatenate((upper, lower)), colour)
    canvas.stroke(upper, 0.028 * unit, scale_colour(colour, 0.8))
    for y in (0.34, 0.50, 0.66):
        azimuth = np.linspace(-70, 70, 14)
        pleat = head.around(azimuth, np.full(14, y) + 0.06 * np.cos(np.radians(azimuth)), bulge)
        canvas.stroke(pleat, 0.02 * unit, scale_colour(colour, 0.84), taper(14))


_KNUCKLES = -0.19 + 0.127 * np.arange(4)
_FINGERS = ((-0.40, -0.05), (-0.50, -0.02), (-0.47, 0.02), (-0.34, 0.07))  # height of the tip, and how far it leans
_THUMB = ((0.16, 0.34), (0.33, 0.14), (0.36, -0.06))
_FINGER_PROFILE = np.interp(np.linspace(0, 1, 10), (0, 0.75, 0.92, 1), (1, 0.95, 0.75, 0.35))


def _paint_hand(canvas: Canvas, head: Head, colours: Palette, factors: Factors) -> None:
    """A hand held flat before the mouth, or laid against one cheek, coming from below."""
    over_mouth = factors.covering == "hand_mouth"
    mirrored = 1 if factors.noise_seed % 2 else -1
    place = np.array((0.0, 0.56)) if over_mouth else np.array((mirrored * 0.70, 0.42))
    turn = mirrored * np.radians(82 if over_mouth else 8)
    c, s = np.cos(turn), np.sin(turn)
    spin = np.array(((c, s), (-s, c)))
    centre, unit = head.to_picture(place[0], place[1], 0.6)[0], head.unit

    def shape(points: np.ndarray) -> np.ndarray:
        return points @ spin * unit + centre

    outline = mix(colours.skin, colours.fold, 0.75)
    skin = mix(colours.skin, colours.blush, 0.12)
    wrist = np.array(((-0.17, 0.35), (-0.15, 1.6), (0.15, 1.6), (0.17, 0.35)))
    palm = np.array(((-0.25, -0.02), (-0.26, 0.3), (-0.19, 0.52), (0.19, 0.52), (0.27, 0.3), (0.25, -0.02)))
    for part in (wrist, palm):
        canvas.polygon(shape(spline(part, 16)), skin)
    fingers = [
        ((base, 0.12), (base + 0.4 * tilt, 0.5 * tip), (base + tilt, tip))
        for base, (tip, tilt) in zip(_KNUCKLES, _FINGERS, strict=True)
    ]
    for finger in (*fingers, _THUMB):
        points = shape(spline(np.array(finger), 10))
        canvas.stroke(points, 0.165 * unit, outline, _FINGER_PROFILE)  # a round tip and a darker edge
        canvas.stroke(points, 0.128 * unit, skin, _FINGER_PROFILE)
