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

NAMES: dict[int, str] = {
    1: "inner brow raiser",
    2: "outer brow raiser",
    4: "brow lowerer",
    5: "upper lid raiser",
    6: "cheek raiser",
    7: "lid tightener",
    9: "nose wrinkler",
    12: "lip corner puller",
    14: "dimpler",
    15: "lip corner depressor",
    16: "lower lip depressor",
    17: "chin raiser",
    20: "lip stretcher",
    23: "lip tightener",
    25: "lips part",
    26: "jaw drop",
}

# Units whose two sides are stored apart. `right` and `left` are the person's own, as in FACS: `right` appears on the
# left of the picture.
SIDED = (12, 14)

# Intensity range by (emotion, unit); anything not named takes the default. The exceptions are EMFACS's own letters
# (surprise 5B: slight) and legibility: contempt's 12A and 14A are traces that 48 pixels could not show, so they are
# sampled stronger here.
_DEFAULT_RANGE = (0.6, 1.0)
_RANGES: dict[tuple[str, int], tuple[float, float]] = {
    ("contempt", 12): (0.8, 1.0),
    ("contempt", 14): (0.75, 1.0),
    ("happiness", 6): (0.7, 1.0),
    ("happiness", 12): (0.7, 1.0),
    ("fear", 1): (0.75, 1.0),
    ("fear", 4): (0.4, 0.7),
    ("fear", 5): (0.7, 1.0),
    ("fear", 7): (0.2, 0.5),
    ("fear", 20): (0.75, 1.0),
    ("fear", 26): (0.2, 0.5),
    ("anger", 4): (0.75, 1.0),
    ("anger", 5): (0.3, 0.7),
    ("surprise", 5): (0.4, 0.7),
    ("surprise", 26): (0.65, 1.0),
    ("sadness", 4): (0.4, 0.7),
    ("disgust", 9): (0.75, 1.0),
    ("disgust", 15): (0.4, 0.8),
}


def field_names() -> tuple[str, ...]:
    """Names under which the intensities are stored: `au1`, ..., `au12_right`, `au12_left`, ..."""
    names: list[str] = []
    for unit in NAMES:
        names += [f"au{unit}_right", f"au{unit}_left"] if unit in SIDED else [f"au{unit}"]
    return tuple(names)


def sample_action_units(emotion: str, rng: np.random.Generator) -> dict[str, float]:
    """Intensities in [0, 1] for one emotion, by field name; units that the emotion does not use are 0.

    The EMFACS units of the emotion are always present. Variants that the guide lists are drawn on top: lips parted
    (25) in a smile, and the raised chin (17) in place of 16 in disgust or beside 15 in sadness.
    """
    units = {unit: rng.uniform(*_RANGES.get((emotion, unit), _DEFAULT_RANGE)) for unit in EMFACS[emotion]}
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
    values = dict.fromkeys(field_names(), 0.0)
    for unit, value in units.items():
        if unit not in SIDED:
            values[f"au{unit}"] = float(value)
            continue
        for side in ("right", "left"):
            if one_sided in (None, side):
                values[f"au{unit}_{side}"] = float(value)
    return values
