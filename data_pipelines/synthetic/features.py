"""Sketches eyes, brows and nose, and the relief and the lines of the face. All lengths are in head units."""

import numpy as np

from data_pipelines.synthetic.canvas import ellipse, mix, spline
from data_pipelines.synthetic.expression import EYE_Y, Eye, brow_curve
from data_pipelines.synthetic.factors import Factors
from data_pipelines.synthetic.palette import Palette
from data_pipelines.synthetic.sketch import Sketch

Units = dict[int, float]

_BROW_PROFILE = np.interp(np.linspace(0, 1, 16), (0, 0.12, 0.35, 0.7, 1), (0.7, 1.0, 0.98, 0.66, 0.14))
_LASH_PROFILE = np.interp(np.linspace(0, 1, 13), (0, 0.3, 0.8, 1), (0.5, 0.9, 1.1, 0.8))


def sketch_brow(sketch: Sketch, colours: Palette, factors: Factors, units: Units, side: int) -> None:
    """One eyebrow, thick at its inner third and tapered outwards."""
    curve = brow_curve(factors, units, side)
    width = 0.068 * factors.brow_thickness
    sketch.stroke(curve, 1.25 * width, mix(colours.skin, colours.brow, 0.45), _BROW_PROFILE, 0.03)
    sketch.stroke(curve, 0.85 * width, colours.brow, _BROW_PROFILE, 0.03)


def sketch_eye(sketch: Sketch, colours: Palette, eye: Eye, units: Units) -> None:
    """One eye: white, iris, pupil and highlight behind the lids, then lashes, crease and lower lid."""
    x, y = eye.centre
    outline = np.concatenate((eye.upper, eye.lower[::-1]))
    sketch.polygon(outline, (238, 234, 230))
    sketch.clip(outline)
    sketch.polygon(np.concatenate((eye.upper, (eye.upper + (0, 0.028))[::-1])), (186, 178, 176))
    sketch.polygon(ellipse(x, y, eye.iris, eye.iris), mix(colours.iris, (12, 8, 8), 0.6))
    sketch.polygon(ellipse(x, y + 0.006, eye.iris * 0.8, eye.iris * 0.8), colours.iris)
    sketch.polygon(ellipse(x, y, eye.iris * 0.47, eye.iris * 0.47, samples=12), (10, 8, 8))
    sketch.polygon(ellipse(x + 0.024, y - 0.026, 0.018, 0.018, samples=10), (255, 255, 255))
    sketch.unclip()
    sketch.stroke(eye.lower, 0.016, mix(colours.fold, colours.line, 0.3))
    sketch.stroke(eye.upper, 0.034, colours.line, _LASH_PROFILE)
    # The fold above the lid, pushed up by a lid that is pulled wide open.
    crease = eye.upper[1:] - (0.0, 0.034 + 0.012 * units[5])
    sketch.stroke(crease, 0.013, mix(colours.skin, colours.fold, 0.65))


def sketch_socket(sketch: Sketch, units: Units, eye: Eye, side: int) -> None:
    """Soft relief around one eye: the socket's shadow, the cheek raised under it, the light on the brow bone."""
    x = float(eye.upper[6, 0])
    sketch.tone("shadow", ellipse(x - side * 0.03, -0.17, 0.19, 0.10), 0.16 + 0.22 * units[4])
    sketch.tone("shadow", ellipse(x - side * 0.14, -0.12, 0.06, 0.10), 0.34 + 0.2 * units[4])
    sketch.tone("light", ellipse(x + side * 0.06, -0.27, 0.12, 0.03), 0.25)
    cheek = 0.24 - 0.05 * units[6]
    sketch.tone("blush", ellipse(side * 0.42, cheek, 0.16, 0.12), 0.34 + 0.2 * units[6])
    sketch.tone("light", ellipse(side * 0.40, cheek - 0.06, 0.13, 0.07), 0.4 + 0.35 * units[6])
    sketch.tone("shadow", ellipse(side * 0.60, 0.38, 0.10, 0.24, side * 0.3), 0.10)


def sketch_nose(sketch: Sketch, colours: Palette, factors: Factors, wrinkle: float) -> None:
    """Wings and nostrils; AU9 (`wrinkle`) lifts and widens the wings."""
    wide = factors.nose_width * (1 + 0.14 * wrinkle)
    base = 0.285 * factors.nose_length - 0.045 * wrinkle
    fold = mix(colours.skin, colours.fold, 0.8)
    for side in (-1, 1):
        wing = np.array(((0.105, -0.10), (0.145, -0.045), (0.140, 0.0), (0.095, 0.022))) * (side * wide, 1)
        sketch.stroke(spline(wing + (0, base), 10), 0.022 + 0.01 * wrinkle, fold, lift=0.06)
        nostril = ellipse(side * 0.062 * wide, base + 0.008, 0.034 * wide, 0.017, side * 0.35, 12)
        sketch.polygon(nostril, mix(colours.fold, colours.line, 0.7), 0.12)
    under = np.array(((-0.055 * wide, base + 0.02), (0.0, base + 0.034), (0.055 * wide, base + 0.02)))
    sketch.stroke(spline(under, 8), 0.016, fold, lift=0.16)


_FLANK_LIFT = np.array((0.08, 0.12, 0.16, 0.05, 0.0, 0.02))


def sketch_nose_relief(sketch: Sketch, factors: Factors) -> None:
    """The ridge's light and the shadow on the side that the lamp does not reach."""
    wide, base = factors.nose_width, 0.285 * factors.nose_length
    toward_right = np.sin(np.radians(factors.light_azimuth)) * factors.light_strength
    for side in (-1, 1):
        points = ((0.055, -0.26), (0.05, -0.05), (0.075, base - 0.08), (0.13, base), (0.15, base - 0.1), (0.085, -0.08))
        flank = np.array(points) * (side * wide, 1)
        sketch.tone("shadow", flank, 0.28 - 0.6 * side * toward_right, _FLANK_LIFT)
    sketch.tone("shadow", ellipse(0, base + 0.05, 0.12 * wide, 0.035), 0.5, 0.04)
    ridge = np.array(((-0.022, -0.24), (-0.022, base - 0.14), (0.022, base - 0.14), (0.022, -0.24)))
    sketch.tone("light", ridge, 0.55, np.array((0.06, 0.16, 0.16, 0.06)))
    sketch.tone("light", ellipse(0, base - 0.07, 0.055 * wide, 0.05), 0.8, 0.2)
    sketch.tone("light", ellipse(0, -0.55, 0.3, 0.12), 0.4)


class Creases:
    """Draws the lines of one half of the face; points are given for the right of the picture and mirrored."""

    def __init__(self, sketch: Sketch, colours: Palette, side: int):
        self._sketch, self._colours, self._mirror = sketch, colours, np.array((side, 1.0))

    def add(self, points: tuple[tuple[float, float], ...], depth: float, width: float = 0.018) -> None:
        """One line; `depth` in [0, 1] darkens and widens it, and below 0.06 there is none."""
        if depth > 0.06:
            depth = min(depth, 1.0)
            colour = mix(self._colours.skin, self._colours.fold, depth)
            curve = spline(np.array(points) * self._mirror, 10)
            self._sketch.stroke(curve, width * (0.6 + 0.4 * depth), colour, lift=0.01)


def sketch_furrows(sketch: Sketch, colours: Palette, factors: Factors, units: Units, side: int) -> None:
    """Lines of one half of the face that the units (and age) carve: forehead, glabella, nose, eyes, cheek."""
    creases, age = Creases(sketch, colours, side), factors.age
    raised = 0.5 * units[1] + 0.5 * units[2]
    for y in (-0.55, -0.635):
        lift = y - 0.02 * units[1]
        creases.add(((0.0, lift), (0.14, lift), (0.30, lift + 0.025 - 0.05 * units[2])), 0.75 * raised + 0.22 * age)
    lowered = units[4] * (1 - 0.4 * min(units[1], 1.0))
    creases.add(((0.055, -0.42), (0.045, -0.34), (0.06, -0.27)), lowered + 0.1 * age, 0.024)
    creases.add(((0.0, -0.20), (0.045, -0.19), (0.085, -0.16)), 1.1 * units[9], 0.024)
    for y in (-0.11, -0.03):
        creases.add(((0.028, y - 0.015), (0.07, y + 0.01), (0.10, y + 0.055)), 1.1 * units[9], 0.024)
    outer = 0.495 * factors.eye_spacing
    for slope in (-0.05, 0.0, 0.05):
        start, end = (outer, EYE_Y + 0.01 + 0.4 * slope), (outer + 0.09, EYE_Y + 0.01 + 1.2 * slope)
        creases.add((start, end), 0.75 * units[6] + 0.2 * age - 0.1, 0.014)
    bag = 0.5 * units[6] + 0.55 * units[7] + 0.3 * units[9] + 0.25 * age
    middle = 0.325 * factors.eye_spacing
    creases.add(((middle - 0.13, -0.035), (middle, -0.005), (middle + 0.12, -0.04)), 0.8 * bag, 0.016)
    _nasolabial(creases, units, age)


def _nasolabial(creases: Creases, units: Units, age: float) -> None:
    """The furrow from the wing of the nose round the corner of the mouth."""
    depth = 0.8 * units[12] + 0.95 * units[9] + 0.3 * units[20] + 0.2 * units[15] + 0.35 * age
    wide = 0.095 * units[12] + 0.05 * units[14] + 0.10 * units[20] + 0.02 * units[9]
    high = -0.035 * units[12] - 0.05 * units[9]
    # A dimple at a raised corner takes the furrow round itself.
    dimple = units[12] * units[14]
    start, middle = (0.165, 0.235 + high), (0.245 + 0.5 * wide + 0.11 * dimple, 0.32 + 0.6 * high - 0.03 * dimple)
    ends = (0.305 + wide, 0.43), (0.325 + wide, 0.535 - 0.05 * units[12])
    creases.add((start, middle, *ends), depth, 0.026)
