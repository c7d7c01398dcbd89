"""The parameters of a synthetic face, and how they are sampled: facial action units by emotion, all else apart from it.

Source of the units: P. Ekman, W. V. Friesen, J. C. Hager, "Facial Action Coding System: Investigator's Guide" (2002),
and EMFACS (W. V. Friesen, P. Ekman, 1983), the table of combinations that signal an emotion. Intensity A..E of FACS
becomes a number between 0 (absent) and 1 (E, maximal).
"""

import dataclasses
from typing import Any

import numpy as np

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
EMOTIONS = tuple(EMFACS)

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
    "sadness": {4: (0.4, 0.7)},
    "surprise": {5: (0.4, 0.7), 26: (0.65, 1.0)},
}

# Options and their probabilities.
HAIR_STYLES = {
    "short": 0.24, "parted": 0.16, "fringe": 0.1, "curly": 0.14, "long": 0.14, "bob": 0.12, "buzz": 0.06, "bald": 0.04,
}  # fmt: skip
HAIR_COLOURS = {
    "#17130f": 0.24, "#2b1d14": 0.2, "#4a3020": 0.17, "#6b4629": 0.13, "#9a6b3c": 0.08, "#c9a063": 0.08,
    "#8c3b1e": 0.05, "#8f8d8a": 0.05,
}  # fmt: skip
GLASSES = {"none": 0.85, "round": 0.08, "square": 0.07}
# What hides the mouth is rare: it takes the evidence away, and bounds what any classifier can reach.
COVERINGS = {"none": 0.938, "mask": 0.012, "hand_mouth": 0.01, "hand_cheek": 0.04}
# Options that are equally likely.
IRIS_COLOURS = ("#3a2415", "#54351d", "#6d5a2c", "#4f6b46", "#4a7396", "#7d8d98")
MASK_COLOURS = ("#9cc3d8", "#eef0f0", "#2a2c30", "#b9d5c2")
# Standard deviations of ratios to the average face.
_PROPORTIONS = {
    "face_width": 0.04, "face_height": 0.03, "jaw": 0.06, "eye_spacing": 0.035, "eye_size": 0.05, "nose_width": 0.1,
    "nose_length": 0.05, "mouth_width": 0.05, "lip_thickness": 0.12, "brow_thickness": 0.14,
}  # fmt: skip
# Standard deviations and limits, in degrees.
_TURNS = {"yaw": (12, 30.0), "pitch": (5, 12.0), "roll": (5, 12.0)}
# Ranges.
_VIEW = {
    "gaze": (-0.6, 0.6), "shift_x": (-0.03, 0.03), "shift_y": (-0.03, 0.03), "scale": (0.93, 1.07),
    "light_azimuth": (-75, 75), "light_elevation": (-5, 60), "light_strength": (0.05, 0.55), "brightness": (0.8, 1.15),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Factors:
    """Everything that decides one picture: only floats, ints and short strings, so it is stored with the example.

    Lengths of the identity are ratios to the average face. Action units are FACS intensities in [0, 1]; `right` and
    `left` are the person's own sides. The defaults are an average, neutral face, frontal, in even light.
    """

    label: str = "neutral"  # canonical name; never read by `draw`
    label_id: int = 5  # position in EMOTIONS; never read by `draw`
    au1: float = 0.0
    au2: float = 0.0
    au4: float = 0.0
    au5: float = 0.0
    au6: float = 0.0
    au7: float = 0.0
    au9: float = 0.0
    au12_right: float = 0.0
    au12_left: float = 0.0
    au14_right: float = 0.0
    au14_left: float = 0.0
    au15: float = 0.0
    au16: float = 0.0
    au17: float = 0.0
    au20: float = 0.0
    au23: float = 0.0
    au25: float = 0.0
    au26: float = 0.0
    asymmetry: float = 0.0  # the person's left side moves (1 + a) times, the right (1 - a) times
    face_width: float = 1.0
    face_height: float = 1.0
    jaw: float = 1.0  # width of the jaw
    eye_spacing: float = 1.0
    eye_size: float = 1.0
    nose_width: float = 1.0
    nose_length: float = 1.0
    mouth_width: float = 1.0
    lip_thickness: float = 1.0
    brow_thickness: float = 1.0
    resting_mouth: float = 0.0  # how a neutral mouth bends, in head units; > 0 is upwards
    age: float = 0.0  # 0 smooth .. 1 lined
    stubble: float = 0.0  # 0 shaved .. 1 dense
    hair_style: str = "short"  # one of HAIR_STYLES
    hair_colour: str = "#2b1d14"
    iris_colour: str = "#54351d"
    skin_tone: int = 4  # Monk scale, 1 lightest .. 10 darkest
    clothes: str = "#4a5a70"
    yaw: float = 0.0  # degrees; > 0 turns the face to the right of the picture
    pitch: float = 0.0  # degrees; > 0 looks up
    roll: float = 0.0  # degrees; > 0 tilts clockwise in the picture
    gaze: float = 0.0  # -1 .. 1, the pupils' shift to the right of the picture
    shift_x: float = 0.0  # of the head's centre, as a part of the picture's width
    shift_y: float = 0.0
    scale: float = 1.0
    light_azimuth: float = 0.0  # degrees; > 0 from the right of the picture
    light_elevation: float = 30.0  # degrees above the camera
    light_strength: float = 0.2  # 0 is flat light
    brightness: float = 1.0
    background: str = "#b8c4cc"
    background_slope: float = 0.0  # change of lightness from top to bottom, as a part of it
    glasses: str = "none"  # one of GLASSES
    covering: str = "none"  # one of COVERINGS
    covering_colour: str = "#9cc3d8"  # of a mask
    blur: float = 0.0  # Gaussian sigma in 48ths of the picture's width
    noise: float = 0.0  # standard deviation in grey levels of 255
    noise_seed: int = 0


def sample_factors(seed: int, index: int) -> Factors:
    """The factors of picture `index` of the stream `seed` (both >= 0): a pure function of the two.

    Labels are exactly balanced: each run of eight indices starting at a multiple of 8 holds every emotion once, in
    an order of its own.
    """
    block, place = divmod(index, len(EMOTIONS))
    label_id = int(np.random.default_rng((seed, block, 1)).permutation(len(EMOTIONS))[place])
    label, rng = EMOTIONS[label_id], np.random.default_rng((seed, index))
    values = sample_action_units(label, rng) | _sample_rest(rng)
    return Factors(label, label_id, **values)


def sample_action_units(emotion: str, rng: np.random.Generator) -> dict[str, Any]:
    """Intensities in [0, 1] of the units that a face of one emotion shows, by the names of Factors' fields.

    The EMFACS units of the emotion are always present. Variants that the guide lists are drawn on top: lips parted
    (25) in a smile, and the raised chin (17) in place of 16 in disgust or beside 15 in sadness.
    """
    units = {unit: float(rng.uniform(*_RANGES.get(emotion, {}).get(unit, _DEFAULT_RANGE))) for unit in EMFACS[emotion]}
    variant, strength = rng.random(), float(rng.uniform(0.5, 1.0))
    if emotion == "happiness" and variant < 0.75:
        units[25] = strength
    elif emotion == "disgust" and variant < 0.35:
        del units[16]
        units[17] = strength
    elif emotion == "sadness" and variant < 0.3:
        units[17] = 0.6 * strength
    sides = ["_right", "_left"]
    if emotion == "contempt":
        sides = sides[:1] if rng.random() < 0.5 else sides[1:]
    return {f"au{unit}{side}": value for unit, value in units.items() for side in (sides if unit in SIDED else [""])}


def _spread(rng: np.random.Generator, sigma: float, centre: float = 1.0) -> float:
    """A normal draw cut at two sigma, so that no face is ever out of proportion."""
    return float(centre + sigma * np.clip(rng.standard_normal(), -2.0, 2.0))


def _choice(rng: np.random.Generator, odds: dict[str, float]) -> str:
    return str(rng.choice(list(odds), p=list(odds.values())))


def _colour(rng: np.random.Generator, low: int, high: int) -> str:
    """A muted colour: a grey level and a small departure from it in each channel."""
    grey = rng.uniform(low, high)
    red, green, blue = np.clip(grey + rng.uniform(-28, 28, size=3), 0, 255).astype(int)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _sample_rest(rng: np.random.Generator) -> dict[str, Any]:
    """Identity, view and nuisances, in the order of drawing, by the names of Factors' fields."""
    skin_tone = int(rng.integers(1, 11))
    hair_colour, iris_colour = _choice(rng, HAIR_COLOURS), str(rng.choice(IRIS_COLOURS))
    if skin_tone >= 7 and rng.random() < 0.9:
        # Light eyes and fair hair are rare with dark skin.
        hair_colour, iris_colour = str(rng.choice(list(HAIR_COLOURS)[:2])), str(rng.choice(IRIS_COLOURS[:2]))
    return {
        "skin_tone": skin_tone,
        "hair_colour": hair_colour,
        "iris_colour": iris_colour,
        "asymmetry": _spread(rng, 0.05, 0.0),
        **{name: _spread(rng, sigma) for name, sigma in _PROPORTIONS.items()},
        "resting_mouth": _spread(rng, 0.004, 0.0),
        "age": float(rng.beta(1.2, 3.0)),
        "stubble": float(rng.uniform(0.2, 0.8)) if rng.random() < 0.15 else 0.0,
        "hair_style": _choice(rng, HAIR_STYLES),
        "clothes": _colour(rng, 40, 200),
        **{name: float(np.clip(rng.normal(0, sigma), -most, most)) for name, (sigma, most) in _TURNS.items()},
        **{name: float(rng.uniform(*limits)) for name, limits in _VIEW.items()},
        "covering": _choice(rng, COVERINGS),
        "background": _colour(rng, 30, 225),
        "background_slope": float(rng.uniform(-0.25, 0.25)),
        "glasses": _choice(rng, GLASSES),
        "covering_colour": str(rng.choice(MASK_COLOURS)),
        "blur": float(rng.uniform(0.2, 0.7)) if rng.random() < 0.4 else 0.0,
        "noise": float(rng.uniform(0.0, 5.0)),
        "noise_seed": int(rng.integers(0, 2**31)),
    }
