"""Paints what hides part of a face: glasses, a medical mask, a hand."""

from collections.abc import Callable

import numpy as np

from data_pipelines.synthetic.canvas import Canvas, Colour, mix, parse_colour, ribbon, scale_colour, spline, taper
from data_pipelines.synthetic.expression import EYE_Y
from data_pipelines.synthetic.factors import Factors
from data_pipelines.synthetic.head import Head
from data_pipelines.synthetic.palette import Palette

_FRAME = (34, 30, 32)


def paint_glasses(canvas: Canvas, head: Head, factors: Factors) -> None:
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


def paint_mask(canvas: Canvas, head: Head, factors: Factors) -> None:
    """A medical mask from the bridge of the nose to under the chin, opaque."""
    colour, unit = parse_colour(factors.covering_colour), head.unit
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


def paint_hand(canvas: Canvas, head: Head, colours: Palette, factors: Factors) -> None:
    """A hand held flat before the mouth, or laid against one cheek, coming from below."""
    over_mouth = factors.covering == "hand_mouth"
    mirrored = 1 if factors.noise_seed % 2 else -1
    place = np.array((0.0, 0.56)) if over_mouth else np.array((mirrored * 0.70, 0.42))
    turn = mirrored * (np.radians(82) if over_mouth else np.radians(8))
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
    for k, (tip, tilt) in enumerate(((-0.40, -0.05), (-0.50, -0.02), (-0.47, 0.02), (-0.34, 0.07))):
        base = -0.19 + 0.127 * k
        finger = np.array(((base, 0.12), (base + 0.4 * tilt, 0.5 * tip), (base + tilt, tip)))
        _paint_finger(canvas, shape, spline(finger, 10), unit, skin, outline)
    thumb = np.array(((0.16, 0.34), (0.33, 0.14), (0.36, -0.06)))
    _paint_finger(canvas, shape, spline(thumb, 10), unit, skin, outline)


def _paint_finger(
    canvas: Canvas,
    shape: Callable[[np.ndarray], np.ndarray],
    curve: np.ndarray,
    unit: float,
    skin: Colour,
    outline: Colour,
) -> None:
    """One finger with a round tip and a darker edge."""
    profile = np.interp(np.linspace(0, 1, 10), (0, 0.75, 0.92, 1), (1, 0.95, 0.75, 0.35))
    points = shape(curve)
    canvas.stroke(points, 0.165 * unit, outline, profile)
    canvas.stroke(points, 0.128 * unit, skin, profile)
