"""Sketches the mouth: lips in two tones, teeth and tongue where it opens, and the chin under it."""

import numpy as np

from data_pipelines.synthetic.canvas import ellipse, mix, taper
from data_pipelines.synthetic.expression import Mouth
from data_pipelines.synthetic.factors import Factors
from data_pipelines.synthetic.features import Creases, Units
from data_pipelines.synthetic.palette import Palette
from data_pipelines.synthetic.sketch import Sketch

_LINE_PROFILE = np.interp(np.linspace(0, 1, 25), (0, 0.08, 0.5, 0.92, 1), (1.2, 1.1, 0.8, 1.1, 1.2))
_LIFT = 0.05


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
    sketch.clip(outline, _LIFT)
    if units[26] > 0.4:
        tongue = ellipse(0, float(lower[12, 1]) + 0.01, 0.13, 0.32 * mouth.opening)
        sketch.polygon(tongue, (158, 66, 68), _LIFT)
    smile = min(units[12] * 2, 1.0)
    # A smile and a stretch bare the upper teeth whole, a dropped jaw only their edge; 16 and 20 bare the lower ones.
    teeth = 0.085 * smile + 0.05 * units[20] + 0.05 * units[9] + 0.035 * units[26]
    teeth = min(teeth, 0.8 * mouth.opening)
    row = np.concatenate((upper[2:-2], (upper[2:-2] + (0, teeth))[::-1]))
    sketch.polygon(row, (236, 230, 220), _LIFT)
    lower_teeth = 0.035 * units[16] + 0.03 * units[20]
    if lower_teeth > 0.01:
        row = np.concatenate((lower[4:-4], (lower[4:-4] - (0, lower_teeth))[::-1]))
        sketch.polygon(row, (218, 210, 200), _LIFT)
    sketch.unclip()


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
    creases = Creases(sketch, colours, side)
    bottom = float(mouth.lower_outer[12, 1])
    corner = mouth.upper_inner[-1 if side > 0 else 0]
    x, y = abs(float(corner[0])), float(corner[1])
    creases.add(((0.0, bottom + 0.04), (0.06, bottom + 0.05), (0.11, bottom + 0.085)), 0.8 * units[17], 0.024)
    creases.add(((x + 0.012, y), (x + 0.035, y + 0.045), (x + 0.03, y + 0.095)), 0.75 * units[15], 0.024)
    creases.add(((x + 0.012, y - 0.06), (x + 0.042, y), (x + 0.018, y + 0.065)), 1.1 * units[14], 0.032)
