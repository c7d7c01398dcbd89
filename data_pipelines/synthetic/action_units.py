"""Which facial action units make which emotion, and how strongly they are sampled.

Source: P. Ekman, W. V. Friesen, J. C. Hager, "Facial Action Coding System: Investigator's Guide" (2002), and EMFACS
(W. V. Friesen, P. Ekman, 1983), the table of combinations that signal an emotion. Intensity A..E of FACS becomes a
number between 0 (absent) and 1 (E, maximal).
"""

import numpy as np

EMOTIONS = ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")

# EMFACS. Contempt is R12A + R14A: one side only, which is why 12 and 14 are kept per side.
EMFACS: dict[str, tuple[int, ...]] = {
    "anger": (4, 5, 7, 23),
    "contempt": (12, 14),
    "disgust": (9, 15, 16),
    "fear": (1, 2, 4, 5, 7, 20, 26),
    "happiness": (6, 12),
    "neutral": (),
    "sadness": (1, 4, 15),
    "surprise": (1, 2, 5, 26),
}

# What the units do: 1 and 2 raise the inner and the outer brow, 4 lowers it; 5 raises the upper lid, 6 the cheek, 7
# tightens the lids; 9 wrinkles the nose; 12 pulls the lip corners up, 14 dimples them, 15 pulls them down; 16 lowers
# the lower lip, 17 raises the chin; 20 stretches the lips, 23 tightens them, 25 parts them; 26 drops the jaw.

# Units whose two sides are stored apart. `right` and `left` are the person's own, as in FACS: `right` appears on the
# left of the picture.
SIDED = (12, 14)

# Intensity range by emotion and unit; any other takes the default. The exceptions are EMFACS's own letters (surprise
# 5B: slight), or are for legibility (contempt's 12A and 14A are traces, which 48 pixels cannot show).
_DEFAULT_RANGE = (0.6, 1.0)
_RANGES: dict[str, dict[int, tuple[float, float]]] = {
    "anger": {4: (0.75, 1.0), 5: (0.3, 0.7)},
    "contempt": {12: (0.8, 1.0), 14: (0.75, 1.0)},
    "disgust": {9: (0.75, 1.0), 15: (0.4, 0.8)},
    "fear": {1: (0.75, 1.0), 4: (0.4, 0.7), 5: (0.7, 1.0), 7: (0.2, 0.5), 20: (0.75, 1.0), 26: (0.2, 0.5)},
    "happiness": {6: (0.7, 1.0), 12: (0.7, 1.0)},
    "neutral": {},
    "sadness": {4: (0.4, 0.7)},
    "surprise": {5: (0.4, 0.7), 26: (0.65, 1.0)},
}


def sample_action_units(emotion: str, rng: np.random.Generator) -> dict[str, float]:
    """Intensities in [0, 1] of the units that a face of one emotion shows, by the names of Factors' fields.

    The EMFACS units of the emotion are always present. Variants that the guide lists are drawn on top: lips parted
    (25) in a smile, and the raised chin (17) in place of 16 in disgust or beside 15 in sadness.
    """
    units = {unit: rng.uniform(*_RANGES[emotion].get(unit, _DEFAULT_RANGE)) for unit in EMFACS[emotion]}
    variant = rng.random()
    strength = rng.uniform(0.5, 1.0)
    if emotion == "happiness" and variant < 0.75:
        units[25] = strength
    elif emotion == "disgust" and variant < 0.35:
        del units[16]
        units[17] = strength
    elif emotion == "sadness" and variant < 0.3:
        units[17] = 0.6 * strength
    one_sided = ("right" if rng.random() < 0.5 else "left") if emotion == "contempt" else None
    values = {}
    for unit, value in units.items():
        if unit not in SIDED:
            values[f"au{unit}"] = float(value)
            continue
        for side in ("right", "left"):
            if one_sided in (None, side):
                values[f"au{unit}_{side}"] = float(value)
    return values
