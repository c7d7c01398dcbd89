"""Colours of a face, derived from its skin tone.

Source of the ten tones: the Monk Skin Tone Scale, Ellis Monk, 2022, https://skintone.google (published hex values).
"""

import dataclasses

from data_pipelines.synthetic.canvas import Colour, mix, parse_colour, scale_colour
from data_pipelines.synthetic.factors import Factors

MONK_TONES = (
    "#f6ede4", "#f3e7db", "#f7ead0", "#eadaba", "#d7bd96", "#a07e56", "#825c43", "#604134", "#3a312a", "#292420",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Palette:
    """RGB colours of one face; `fold` is for creases, `line` for what is nearly black on any skin."""

    skin: Colour
    shade: Colour
    light: Colour
    fold: Colour
    line: Colour
    blush: Colour
    lip_upper: Colour
    lip_lower: Colour
    lip_light: Colour
    brow: Colour
    hair: Colour
    hair_light: Colour
    hair_dark: Colour
    iris: Colour


def palette_of(factors: Factors) -> Palette:
    """The colours of a face in flat light."""
    darkness = (factors.skin_tone - 1) / 9
    # A camera exposes for the face: the darkest tones are lifted and the lightest held back, or neither would show
    # its relief in eight bits. The order of the tones stays.
    skin = scale_colour(parse_colour(MONK_TONES[factors.skin_tone - 1]), 0.91 + 0.9 * darkness**4)
    # The published swatches are flat; blood under the skin warms a face that is seen in light.
    skin = mix(skin, (214, 134, 84), 0.14)
    hair = parse_colour(factors.hair_colour)
    line = mix(scale_colour(skin, 0.22), (16, 9, 8), 0.6)
    lip = mix(scale_colour(skin, 0.94 + 0.4 * darkness), (178, 62, 66), 0.42 - 0.1 * darkness)
    return Palette(
        skin=skin,
        shade=mix(scale_colour(skin, 0.56), (92, 38, 24), 0.22 * (1 - darkness)),
        light=mix(skin, (255, 244, 232), 0.55 - 0.28 * darkness),
        fold=mix(scale_colour(skin, 0.48), (70, 26, 18), 0.3 * (1 - darkness)),
        line=line,
        blush=mix(skin, (222, 84, 74), 0.5),
        lip_upper=scale_colour(lip, 0.8),
        lip_lower=lip,
        lip_light=mix(lip, (255, 236, 228), 0.38),
        brow=mix(mix(hair, (20, 14, 10), 0.55), line, 0.35 + 0.4 * darkness),
        hair=hair,
        hair_light=mix(hair, (255, 240, 215), 0.2),
        hair_dark=scale_colour(hair, 0.6),
        iris=parse_colour(factors.iris_colour),
    )
