"""The face's features: sketches of eyes, brows, nose and mouth, and of the relief and the lines around them.

Lengths are in head units. A face is some eighty small curves. Projecting them one by one costs more than filling them:
in a Sketch all points pass through the head's geometry at once, and so do the outlines of all strokes.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from data_pipelines.synthetic.canvas import Canvas, Colour, Palette, ellipse, mix, normals, spline, taper
from data_pipelines.synthetic.factors import Factors
from data_pipelines.synthetic.head import EYE_Y, Coordinate, Eye, Head, Mouth, Units, brow_curve

Point = tuple[float, float]
_BROW_PROFILE = np.interp(np.linspace(0, 1, 16), (0, 0.12, 0.35, 0.7, 1), (0.7, 1.0, 0.98, 0.66, 0.14))
_LASH_PROFILE = np.interp(np.linspace(0, 1, 13), (0, 0.3, 0.8, 1), (0.5, 0.9, 1.1, 0.8))
_LINE_PROFILE = np.interp(np.linspace(0, 1, 25), (0, 0.08, 0.5, 0.92, 1), (1.2, 1.1, 0.8, 1.1, 1.2))
_LIFT = 0.05  # of the mouth over the face
_FLANK_LIFT = np.array((0.08, 0.12, 0.16, 0.05, 0.0, 0.02))


class Sketch:
    """Shapes on the front of the face, painted in the order in which they were added."""

    def __init__(self) -> None:
        #: Of each shape its points (n, 2), their lifts and widths (n,), and what puts it on the canvas.
        self._shapes: list[tuple[np.ndarray, np.ndarray, np.ndarray, Callable[[Canvas, np.ndarray], None]]] = []

    def _add(
        self, paint: Callable[..., None], points: np.ndarray, lift: Coordinate, *order: Any, widths: Coordinate = 0.0
    ) -> None:
        lifts, widths = np.full(len(points), lift), np.full(len(points), widths)
        self._shapes.append((points, lifts, widths, lambda canvas, shape: paint(canvas, shape, *order)))

    def polygon(self, points: np.ndarray, colour: Colour, lift: Coordinate = 0.0) -> None:
        """A filled shape (n, 2), raised over the face by `lift`, all in head units."""
        self._add(Canvas.polygon, points, lift, colour)

    def stroke(
        self, points: np.ndarray, width: float, colour: Colour, profile: Coordinate | None = None, lift: float = 0.0
    ) -> None:
        """A line along (n, 2), thinning to both ends unless a profile (n,) of widths says otherwise."""
        profile = taper(len(points)) if profile is None else profile
        self._add(Canvas.polygon, points, lift, colour, widths=width * profile)

    def tone(self, name: str, points: np.ndarray, amount: float, lift: Coordinate = 0.0) -> None:
        """A shape for one of the canvas's soft layers."""
        if amount > 0.01:
            self._add(Canvas.tone, points, lift, name, amount)

    @contextlib.contextmanager
    def clipped(self, outline: np.ndarray, lift: float = 0.0) -> Iterator[None]:
        """What is added inside the `with` reaches only the inside of `outline`."""
        self._add(Canvas.begin_clip, outline, lift)
        yield
        self._add(Canvas.end_clip, outline, lift)

    def paint(self, canvas: Canvas, head: Head) -> None:
        """Puts everything collected on the canvas, as seen on `head`."""
        *parts, painters = zip(*self._shapes, strict=True)
        flat, lifts, widths = map(np.concatenate, parts)
        lengths = [len(points) for points in parts[0]]
        ends = np.cumsum(lengths)
        points = head.on_face(flat, lifts)
        normal = normals(points, ends - lengths, ends) * (0.5 * head.unit * widths)[:, None]
        one_side, other_side = points + normal, points - normal
        for paint, length, end in zip(painters, lengths, ends.tolist(), strict=True):
            part = slice(end - length, end)
            is_stroke = widths[end - 1] > 0
            paint(canvas, np.concatenate((one_side[part], other_side[part][::-1])) if is_stroke else points[part])


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
    with sketch.clipped(outline):
        sketch.polygon(np.concatenate((eye.upper, (eye.upper + (0, 0.028))[::-1])), (186, 178, 176))
        sketch.polygon(ellipse(x, y, eye.iris, eye.iris), mix(colours.iris, (12, 8, 8), 0.6))
        sketch.polygon(ellipse(x, y + 0.006, eye.iris * 0.8, eye.iris * 0.8), colours.iris)
        sketch.polygon(ellipse(x, y, eye.iris * 0.47, eye.iris * 0.47, samples=12), (10, 8, 8))
        sketch.polygon(ellipse(x + 0.024, y - 0.026, 0.018, 0.018, samples=10), (255, 255, 255))
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


def _crease(
    sketch: Sketch, colours: Palette, side: int, points: tuple[Point, ...], depth: float, width: float = 0.018
) -> None:
    """A line through points of the right of the picture, mirrored for side -1.

    `depth` in [0, 1] darkens and widens it, and below 0.06 there is none.
    """
    if depth > 0.06:
        depth = min(depth, 1.0)
        curve = spline(np.array(points) * (side, 1.0), 10)
        sketch.stroke(curve, width * (0.6 + 0.4 * depth), mix(colours.skin, colours.fold, depth), lift=0.01)


def sketch_furrows(sketch: Sketch, colours: Palette, factors: Factors, units: Units, side: int) -> None:
    """Lines of one half of the face that the units (and age) carve: forehead, glabella, nose, eyes, cheek."""
    crease, age = partial(_crease, sketch, colours, side), factors.age
    raised = 0.5 * units[1] + 0.5 * units[2]
    for y in (-0.55, -0.635):
        lift = y - 0.02 * units[1]
        crease(((0.0, lift), (0.14, lift), (0.30, lift + 0.025 - 0.05 * units[2])), 0.75 * raised + 0.22 * age)
    lowered = units[4] * (1 - 0.4 * min(units[1], 1.0))
    crease(((0.055, -0.42), (0.045, -0.34), (0.06, -0.27)), lowered + 0.1 * age, 0.024)
    crease(((0.0, -0.20), (0.045, -0.19), (0.085, -0.16)), 1.1 * units[9], 0.024)
    for y in (-0.11, -0.03):
        crease(((0.028, y - 0.015), (0.07, y + 0.01), (0.10, y + 0.055)), 1.1 * units[9], 0.024)
    outer = 0.495 * factors.eye_spacing
    for slope in (-0.05, 0.0, 0.05):
        start, end = (outer, EYE_Y + 0.01 + 0.4 * slope), (outer + 0.09, EYE_Y + 0.01 + 1.2 * slope)
        crease((start, end), 0.75 * units[6] + 0.2 * age - 0.1, 0.014)
    bag = 0.5 * units[6] + 0.55 * units[7] + 0.3 * units[9] + 0.25 * age
    middle = 0.325 * factors.eye_spacing
    crease(((middle - 0.13, -0.035), (middle, -0.005), (middle + 0.12, -0.04)), 0.8 * bag, 0.016)
    # The furrow from the wing of the nose round the corner of the mouth.
    depth = 0.8 * units[12] + 0.95 * units[9] + 0.3 * units[20] + 0.2 * units[15] + 0.35 * age
    wide = 0.095 * units[12] + 0.05 * units[14] + 0.10 * units[20] + 0.02 * units[9]
    high = -0.035 * units[12] - 0.05 * units[9]
    # A dimple at a raised corner takes the furrow round itself.
    dimple = units[12] * units[14]
    start, bend = (0.165, 0.235 + high), (0.245 + 0.5 * wide + 0.11 * dimple, 0.32 + 0.6 * high - 0.03 * dimple)
    ends = (0.305 + wide, 0.43), (0.325 + wide, 0.535 - 0.05 * units[12])
    crease((start, bend, *ends), depth, 0.026)


def sketch_mouth(sketch: Sketch, colours: Palette, mouth: Mouth, units: Units) -> None:
    """Lips and what is behind them; `units` are the means of both sides."""
    upper, lower = mouth.upper_inner, mouth.lower_inner
    sketch.polygon(np.concatenate((lower, mouth.lower_outer[::-1])), colours.lip_lower, _LIFT)
    gloss = lower[7:18] * 0.45 + mouth.lower_outer[7:18] * 0.55
    thick = float(mouth.lower_outer[12, 1] - lower[12, 1])
    sketch.stroke(gloss, 0.34 * thick, colours.lip_light, taper(11), _LIFT)
    sketch.polygon(np.concatenate((mouth.upper_outer, upper[::-1])), colours.lip_upper, _LIFT)
    if mouth.opening > 0.02:
        _sketch_inside(sketch, mouth, units)
        sketch.stroke(upper, 0.016, mix(colours.lip_upper, colours.line, 0.6), _LINE_PROFILE, _LIFT)
    else:
        sketch.stroke(upper, 0.03, mix(colours.lip_upper, colours.line, 0.8), _LINE_PROFILE, _LIFT)
    edge = mix(colours.skin, colours.fold, 0.4)
    sketch.stroke(mouth.lower_outer[5:20] + (0, 0.008), 0.018, edge, taper(15), _LIFT)


def _sketch_inside(sketch: Sketch, mouth: Mouth, units: Units) -> None:
    """The open mouth: dark, with the tongue low and the teeth that its shape uncovers."""
    upper, lower = mouth.upper_inner, mouth.lower_inner
    outline = np.concatenate((upper, lower[::-1]))
    sketch.polygon(outline, (52, 16, 18), _LIFT)
    with sketch.clipped(outline, _LIFT):
        if units[26] > 0.4:
            tongue = ellipse(0, float(lower[12, 1]) + 0.01, 0.13, 0.32 * mouth.opening)
            sketch.polygon(tongue, (158, 66, 68), _LIFT)
        smile = min(units[12] * 2, 1.0)
        # A smile and a stretch bare the upper teeth, a dropped jaw only their edge; 16 and 20 bare the lower ones.
        teeth = 0.085 * smile + 0.05 * units[20] + 0.05 * units[9] + 0.035 * units[26]
        teeth = min(teeth, 0.8 * mouth.opening)
        row = np.concatenate((upper[2:-2], (upper[2:-2] + (0, teeth))[::-1]))
        sketch.polygon(row, (236, 230, 220), _LIFT)
        lower_teeth = 0.035 * units[16] + 0.03 * units[20]
        if lower_teeth > 0.01:
            row = np.concatenate((lower[4:-4], (lower[4:-4] - (0, lower_teeth))[::-1]))
            sketch.polygon(row, (218, 210, 200), _LIFT)


def sketch_stubble(sketch: Sketch, factors: Factors) -> None:
    """The soft darkness of a beard's shadow; to be laid before the mouth's own relief."""
    if factors.stubble > 0:
        jaw = np.array(((-0.58, 0.35), (-0.48, 0.72), (-0.2, 0.95), (0.2, 0.95), (0.48, 0.72), (0.58, 0.35)))
        beard = np.concatenate((jaw, ((0.32, 0.5), (0.12, 0.40), (-0.12, 0.40), (-0.32, 0.5))))
        sketch.tone("shadow", beard, 0.5 * factors.stubble)


def sketch_chin(sketch: Sketch, mouth: Mouth, units: Units) -> None:
    """Soft relief under and beside the mouth."""
    bottom = float(mouth.lower_outer[12, 1])
    sketch.tone("shadow", ellipse(0, bottom + 0.045, 0.15, 0.035), 0.45 + 0.3 * units[17], 0.03)
    sketch.tone("light", ellipse(0, bottom + 0.14, 0.13, 0.06), 0.35, 0.03)
    for curve, side in ((mouth.upper_inner[0], -1), (mouth.upper_inner[-1], 1)):
        corner = ellipse(float(curve[0]) + side * 0.035, float(curve[1]) + 0.01, 0.045, 0.06)
        sketch.tone("shadow", corner, 0.3 + 0.25 * max(units[23], units[15]))
    for side in (-1, 1):
        sketch.tone("shadow", ellipse(side * 0.03, 0.385, 0.016, 0.06), 0.2, 0.04)


def sketch_mouth_lines(sketch: Sketch, colours: Palette, mouth: Mouth, units: Units, side: int) -> None:
    """The lines of one half that 15 draws below the corner, 14 beside it (a dimple), and 17 over the chin."""
    crease = partial(_crease, sketch, colours, side)
    bottom = float(mouth.lower_outer[12, 1])
    corner = mouth.upper_inner[-1 if side > 0 else 0]
    x, y = abs(float(corner[0])), float(corner[1])
    crease(((0.0, bottom + 0.04), (0.06, bottom + 0.05), (0.11, bottom + 0.085)), 0.8 * units[17], 0.024)
    crease(((x + 0.012, y), (x + 0.035, y + 0.045), (x + 0.03, y + 0.095)), 0.75 * units[15], 0.024)
    crease(((x + 0.012, y - 0.06), (x + 0.042, y), (x + 0.018, y + 0.065)), 1.1 * units[14], 0.032)
