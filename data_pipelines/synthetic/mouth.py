"""Paints the mouth: lips in two tones, teeth and tongue where it opens, and the chin under it."""

import numpy as np

from data_pipelines.synthetic.canvas import Canvas, ellipse, mix, spline, taper
from data_pipelines.synthetic.expression import Mouth
from data_pipelines.synthetic.head import Head
from data_pipelines.synthetic.palette import Palette

_LINE_PROFILE = np.interp(np.linspace(0, 1, 25), (0, 0.08, 0.5, 0.92, 1), (1.2, 1.1, 0.8, 1.1, 1.2))


def paint_mouth(canvas: Canvas, head: Head, colours: Palette, mouth: Mouth, units: dict[int, float]) -> None:
    """Lips and what is behind them; `units` are the means of both sides."""
    lift = 0.05
    upper_outer, upper_inner, lower_inner, lower_outer = (
        head.on_face(curve, lift)
        for curve in (mouth.upper_outer, mouth.upper_inner, mouth.lower_inner, mouth.lower_outer)
    )
    unit = head.unit
    canvas.polygon(np.concatenate((lower_inner, lower_outer[::-1])), colours.lip_lower)
    gloss = lower_inner[7:18] * 0.45 + lower_outer[7:18] * 0.55
    thick = float(np.abs(lower_outer[12] - lower_inner[12]).max())
    canvas.stroke(gloss, 0.34 * thick, colours.lip_light, taper(11))
    canvas.polygon(np.concatenate((upper_outer, upper_inner[::-1])), colours.lip_upper)
    if mouth.opening > 0.02:
        _paint_inside(canvas, head, mouth, upper_inner, lower_inner, units)
        canvas.stroke(upper_inner, 0.016 * unit, mix(colours.lip_upper, colours.line, 0.6), _LINE_PROFILE)
    else:
        canvas.stroke(upper_inner, 0.03 * unit, mix(colours.lip_upper, colours.line, 0.8), _LINE_PROFILE)
    edge = mix(colours.skin, colours.fold, 0.4)
    canvas.stroke(lower_outer[5:20] + (0, 0.008 * unit), 0.018 * unit, edge, taper(15))


def _paint_inside(
    canvas: Canvas, head: Head, mouth: Mouth, upper: np.ndarray, lower: np.ndarray, units: dict[int, float]
) -> None:
    """The open mouth: dark, with the tongue low and the teeth that its shape uncovers."""
    outline = np.concatenate((upper, lower[::-1]))
    canvas.polygon(outline, (52, 16, 18))
    middle = float(mouth.lower_inner[12, 1])
    smile = min(units[12] * 2, 1.0)
    # A smile and a stretch bare the upper teeth whole, a dropped jaw only their edge; 16 and 20 bare the lower ones.
    teeth = min(0.085 * smile + 0.05 * units[20] + 0.05 * units[9] + 0.035 * units[26], 0.8 * mouth.opening)
    with canvas.clipped(outline) as inside:
        if units[26] > 0.4:
            tongue = ellipse(0, middle + 0.01, 0.13, 0.32 * mouth.opening)
            inside.polygon(head.on_face(tongue), (158, 66, 68))
        row = np.concatenate((upper[2:-2], (upper[2:-2] + (0, teeth * head.unit))[::-1]))
        inside.polygon(row, (236, 230, 220))
        lower_teeth = 0.035 * units[16] + 0.03 * units[20]
        if lower_teeth > 0.01:
            row = np.concatenate((lower[4:-4], (lower[4:-4] - (0, lower_teeth * head.unit))[::-1]))
            inside.polygon(row, (218, 210, 200))


def paint_chin(canvas: Canvas, head: Head, colours: Palette, mouth: Mouth, units: dict[int, float]) -> None:
    """Soft relief under and beside the mouth, and the boss of the chin that 17 wrinkles."""
    bottom = float(mouth.lower_outer[12, 1])
    canvas.tone("shadow", head.on_face(ellipse(0, bottom + 0.045, 0.15, 0.035), 0.03), 0.45 + 0.3 * units[17])
    canvas.tone("light", head.on_face(ellipse(0, bottom + 0.14, 0.13, 0.06), 0.03), 0.35)
    for curve, side in ((mouth.upper_inner[0], -1), (mouth.upper_inner[-1], 1)):
        corner = ellipse(float(curve[0]) + side * 0.035, float(curve[1]) + 0.01, 0.045, 0.06)
        canvas.tone("shadow", head.on_face(corner), 0.35 + 0.25 * max(units[23], units[14], units[15]))
    for side in (-1, 1):
        canvas.tone("shadow", head.on_face(ellipse(side * 0.03, 0.385, 0.016, 0.06), 0.04), 0.2)


def paint_chin_lines(canvas: Canvas, head: Head, colours: Palette, mouth: Mouth, units: dict[int, float]) -> None:
    """The lines below the corners that 15 draws, and the arc over the chin of 17."""
    unit = head.unit
    bottom = float(mouth.lower_outer[12, 1])
    if units[17] > 0.1:
        arc = np.array(((-0.11, bottom + 0.075), (0.0, bottom + 0.04), (0.11, bottom + 0.075)))
        colour = mix(colours.skin, colours.fold, 0.8 * min(units[17], 1.0))
        canvas.stroke(head.on_face(spline(arc, 10), 0.03), 0.024 * unit, colour)
    if units[15] > 0.1:
        for corner, side in ((mouth.upper_inner[0], -1), (mouth.upper_inner[-1], 1)):
            x, y = float(corner[0]), float(corner[1])
            line = np.array(((x + side * 0.012, y), (x + side * 0.035, y + 0.045), (x + side * 0.03, y + 0.095)))
            colour = mix(colours.skin, colours.fold, 0.75 * min(units[15], 1.0))
            canvas.stroke(head.on_face(spline(line, 8), 0.03), 0.024 * unit, colour)
