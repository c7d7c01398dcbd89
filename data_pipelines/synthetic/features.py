"""Paints eyes, brows and nose, and the relief of the face."""

import numpy as np

from data_pipelines.synthetic.canvas import Canvas, ellipse, mix, spline, taper
from data_pipelines.synthetic.expression import Eye, brow_curve
from data_pipelines.synthetic.factors import Factors
from data_pipelines.synthetic.head import Head
from data_pipelines.synthetic.palette import Palette

_BROW_PROFILE = np.interp(np.linspace(0, 1, 16), (0, 0.12, 0.35, 0.7, 1), (0.7, 1.0, 0.98, 0.66, 0.14))
_LASH_PROFILE = np.interp(np.linspace(0, 1, 13), (0, 0.3, 0.8, 1), (0.5, 0.9, 1.1, 0.8))


def paint_brow(
    canvas: Canvas, head: Head, colours: Palette, factors: Factors, units: dict[int, float], side: int
) -> None:
    """One eyebrow, thick at its inner third and tapered outwards."""
    curve = head.on_face(brow_curve(factors, units, side), 0.03)
    width = 0.068 * factors.brow_thickness * head.unit
    canvas.stroke(curve, 1.25 * width, mix(colours.skin, colours.brow, 0.45), _BROW_PROFILE)
    canvas.stroke(curve, 0.85 * width, colours.brow, _BROW_PROFILE)


def paint_eye(canvas: Canvas, head: Head, colours: Palette, eye: Eye, units: dict[int, float]) -> None:
    """One eye: white, iris, pupil and highlight behind the lids, then lashes, crease and lower lid."""
    upper, lower = head.on_face(eye.upper), head.on_face(eye.lower)
    unit, (x, y) = head.unit, eye.centre
    outline = np.concatenate((upper, lower[::-1]))
    canvas.polygon(outline, (238, 234, 230))
    with canvas.clipped(outline) as inside:
        shadow = np.concatenate((upper, (upper + (0, 0.028 * unit))[::-1]))
        inside.polygon(shadow, (186, 178, 176))
        inside.polygon(head.on_face(ellipse(x, y, eye.iris, eye.iris)), mix(colours.iris, (12, 8, 8), 0.6))
        inside.polygon(head.on_face(ellipse(x, y + 0.006, eye.iris * 0.8, eye.iris * 0.8)), colours.iris)
        inside.polygon(head.on_face(ellipse(x, y, eye.iris * 0.47, eye.iris * 0.47)), (10, 8, 8))
        inside.polygon(head.on_face(ellipse(x + 0.024, y - 0.026, 0.018, 0.018)), (255, 255, 255))
    canvas.stroke(lower, 0.016 * unit, mix(colours.fold, colours.line, 0.3))
    canvas.stroke(upper, 0.032 * unit, colours.line, _LASH_PROFILE)
    # The fold above the lid: high over a heavy lid, gone behind a lid pulled wide open or a lowered brow.
    crease = eye.upper - (0.0, 0.034 + 0.012 * units[5])
    canvas.stroke(head.on_face(crease[1:]), 0.013 * unit, mix(colours.skin, colours.fold, 0.65))


def paint_socket(canvas: Canvas, head: Head, units: dict[int, float], eye: Eye, side: int) -> None:
    """Soft relief around one eye: the socket's shadow, the cheek raised under it, the light on the brow bone."""
    x = float(eye.upper[6, 0])
    canvas.tone("shadow", head.on_face(ellipse(x - side * 0.03, -0.17, 0.19, 0.10)), 0.20 + 0.22 * units[4])
    canvas.tone("shadow", head.on_face(ellipse(x - side * 0.14, -0.12, 0.06, 0.10)), 0.36 + 0.2 * units[4])
    canvas.tone("light", head.on_face(ellipse(x + side * 0.06, -0.27, 0.12, 0.03)), 0.25)
    cheek = 0.24 - 0.05 * units[6]
    canvas.tone("blush", head.on_face(ellipse(side * 0.42, cheek, 0.15, 0.12)), 0.3 + 0.2 * units[6])
    canvas.tone("light", head.on_face(ellipse(side * 0.40, cheek - 0.06, 0.13, 0.07)), 0.4 + 0.35 * units[6])


def paint_nose(canvas: Canvas, head: Head, colours: Palette, factors: Factors, wrinkle: float) -> None:
    """Wings, nostrils and the light on the ridge; AU9 (`wrinkle`) lifts and widens the wings."""
    wide, unit = factors.nose_width * (1 + 0.14 * wrinkle), head.unit
    base = 0.285 * factors.nose_length - 0.045 * wrinkle
    fold = mix(colours.skin, colours.fold, 0.8)
    for side in (-1, 1):
        wing = np.array(((0.105, -0.10), (0.145, -0.045), (0.140, 0.0), (0.095, 0.022))) * (side * wide, 1)
        canvas.stroke(head.on_face(spline(wing + (0, base), 10), 0.06), 0.022 * unit, fold)
        nostril = ellipse(side * 0.062 * wide, base + 0.008, 0.034 * wide, 0.017, side * 0.35, 12)
        canvas.polygon(head.on_face(nostril, 0.12), mix(colours.fold, colours.line, 0.7))
    under = np.array(((-0.055 * wide, base + 0.02), (0.0, base + 0.034), (0.055 * wide, base + 0.02)))
    canvas.stroke(head.on_face(spline(under, 8), 0.16), 0.016 * unit, fold)


def paint_nose_relief(canvas: Canvas, head: Head, factors: Factors) -> None:
    """The ridge's light and the shadow on the side that the lamp does not reach."""
    wide, base = factors.nose_width, 0.285 * factors.nose_length
    toward_right = np.sin(np.radians(factors.light_azimuth)) * factors.light_strength
    for side in (-1, 1):
        points = np.array(((0.055, -0.26), (0.05, -0.05), (0.075, base - 0.08), (0.13, base), (0.15, base - 0.1)))
        flank = np.concatenate((points, ((0.085, -0.08),))) * (side * wide, 1)
        lifts = np.array((0.08, 0.12, 0.16, 0.05, 0.0, 0.02))
        canvas.tone("shadow", head.on_face(flank, lifts), 0.30 - 0.6 * side * toward_right)
    canvas.tone("shadow", head.on_face(ellipse(0, base + 0.05, 0.12 * wide, 0.035), 0.04), 0.5)
    ridge = np.array(((-0.022, -0.24), (-0.022, base - 0.14), (0.022, base - 0.14), (0.022, -0.24)))
    canvas.tone("light", head.on_face(ridge, np.array((0.06, 0.16, 0.16, 0.06))), 0.55)
    canvas.tone("light", head.on_face(ellipse(0, base - 0.07, 0.055 * wide, 0.05), 0.2), 0.8)


def paint_furrows(
    canvas: Canvas, head: Head, colours: Palette, factors: Factors, units: dict[int, float], side: int
) -> None:
    """Lines of one half of the face that the units (and age) carve: forehead, glabella, crow's feet, nose, cheek."""
    unit, age = head.unit, factors.age

    def crease(points: tuple, depth: float, width: float = 0.018) -> None:
        if depth > 0.06:
            curve = head.on_face(spline(np.array(points) * (side, 1), 10), 0.01)
            colour = mix(colours.skin, colours.fold, min(depth, 1.0))
            canvas.stroke(curve, width * (0.6 + 0.4 * min(depth, 1.0)) * unit, colour, taper(10))

    raised = 0.5 * units[1] + 0.5 * units[2]
    for y in (-0.60, -0.70):
        lift = y - 0.02 * units[1]
        crease(((0.0, lift), (0.14, lift), (0.30, lift + 0.025 - 0.05 * units[2])), 0.75 * raised + 0.22 * age)
    lowered = units[4] * (1 - 0.4 * min(units[1], 1.0))
    crease(((0.055, -0.42), (0.045, -0.34), (0.06, -0.27)), 1.0 * lowered + 0.1 * age, 0.024)
    for k, y in enumerate((-0.215, -0.145, -0.075)):
        crease(((0.0, y - 0.01), (0.05, y), (0.085 + 0.012 * k, y + 0.035)), 1.1 * units[9], 0.022)
    outer = 0.495 * factors.eye_spacing
    for slope in (-0.05, 0.0, 0.05):
        depth = 0.75 * units[6] + 0.2 * age - 0.1
        crease(((outer, EYE_CORNER + 0.4 * slope), (outer + 0.09, EYE_CORNER + 1.2 * slope)), depth, 0.014)
    bag = 0.5 * units[6] + 0.55 * units[7] + 0.3 * units[9] + 0.25 * age
    middle = 0.325 * factors.eye_spacing
    crease(((middle - 0.13, -0.035), (middle, -0.005), (middle + 0.12, -0.04)), 0.8 * bag, 0.016)
    _nasolabial(crease, units, age)


EYE_CORNER = -0.10


def _nasolabial(crease, units: dict[int, float], age: float) -> None:
    """The furrow from the wing of the nose round the corner of the mouth."""
    depth = 0.85 * units[12] + 0.95 * units[9] + 0.3 * units[20] + 0.25 * units[15] + 0.25 * units[14] + 0.35 * age
    wide = 0.075 * units[12] + 0.10 * units[20] + 0.02 * units[9]
    high = -0.035 * units[12] - 0.05 * units[9]
    points = (
        (0.165, 0.235 + high),
        (0.245 + 0.4 * wide, 0.32 + 0.6 * high),
        (0.305 + wide, 0.43),
        (0.32 + wide, 0.535 + 0.02 * units[15]),
    )
    crease(points, depth, 0.026)
    # 14 presses the corner into a dimple: a short deep fold just outside it.
    x = 0.235 + 0.03 + 0.085 * units[12] + 0.03 * units[14] + 0.025
    y = 0.53 - 0.155 * units[12] - 0.035 * units[14]
    crease(((x - 0.01, y - 0.06), (x + 0.02, y), (x - 0.005, y + 0.06)), 1.3 * units[14], 0.036)
