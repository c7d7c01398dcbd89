"""The parameters of a synthetic face, and how they are sampled."""

import dataclasses
from typing import Any

import numpy as np

from data_pipelines.synthetic.action_units import EMOTIONS, sample_action_units

HAIR_STYLES = ("short", "parted", "fringe", "curly", "long", "bob", "buzz", "bald")
_HAIR_STYLE_ODDS = (0.24, 0.16, 0.1, 0.14, 0.14, 0.12, 0.06, 0.04)
HAIR_COLOURS = ("#17130f", "#2b1d14", "#4a3020", "#6b4629", "#9a6b3c", "#c9a063", "#8c3b1e", "#8f8d8a")
_HAIR_COLOUR_ODDS = (0.24, 0.2, 0.17, 0.13, 0.08, 0.08, 0.05, 0.05)
IRIS_COLOURS = ("#3a2415", "#54351d", "#6d5a2c", "#4f6b46", "#4a7396", "#7d8d98")
GLASSES = ("none", "round", "square")
COVERINGS = ("none", "mask", "hand_mouth", "hand_cheek")
# What hides the mouth is rare: it takes the evidence away, and bounds what any classifier can reach.
COVERING_ODDS = (0.938, 0.012, 0.01, 0.04)
GLASSES_ODDS = (0.85, 0.08, 0.07)
MAX_YAW, MAX_PITCH, MAX_ROLL = 30.0, 12.0, 12.0


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

    def as_dict(self) -> dict[str, float | int | str]:
        """Flat mapping of field name to value, for storing beside the picture."""
        return dataclasses.asdict(self)


def sample_factors(seed: int, index: int) -> Factors:
    """The factors of picture `index` of the stream `seed` (both >= 0): a pure function of the two.

    Labels are exactly balanced: each run of eight indices starting at a multiple of 8 holds every emotion once, in
    an order of its own.
    """
    classes = len(EMOTIONS)
    block, place = divmod(index, classes)
    order = np.random.default_rng((seed, block, 1)).permutation(classes)
    label_id = int(order[place])
    rng = np.random.default_rng((seed, index))
    values: dict[str, Any] = {"label": EMOTIONS[label_id], "label_id": label_id}
    values |= sample_action_units(EMOTIONS[label_id], rng)
    values |= _sample_identity(rng)
    values |= _sample_view(rng)
    values |= _sample_nuisances(rng)
    return Factors(**values)


def _spread(rng: np.random.Generator, sigma: float, centre: float = 1.0) -> float:
    """A normal draw cut at two sigma, so that no face is ever out of proportion."""
    return float(centre + sigma * np.clip(rng.standard_normal(), -2.0, 2.0))


def _choice(rng: np.random.Generator, options: tuple[str, ...], odds: tuple[float, ...] | None = None) -> str:
    return str(options[int(rng.choice(len(options), p=odds))])


def _colour(rng: np.random.Generator, low: int, high: int) -> str:
    """A muted colour: a grey level and a small departure from it in each channel."""
    grey = rng.uniform(low, high)
    red, green, blue = np.clip(grey + rng.uniform(-28, 28, size=3), 0, 255).astype(int)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _sample_identity(rng: np.random.Generator) -> dict[str, float | int | str]:
    skin_tone = int(rng.integers(1, 11))
    hair_colour, iris_colour = _choice(rng, HAIR_COLOURS, _HAIR_COLOUR_ODDS), _choice(rng, IRIS_COLOURS)
    if skin_tone >= 7 and rng.random() < 0.9:
        # Light eyes and fair hair are rare with dark skin.
        hair_colour, iris_colour = HAIR_COLOURS[int(rng.integers(0, 2))], IRIS_COLOURS[int(rng.integers(0, 2))]
    return {
        "asymmetry": _spread(rng, 0.05, 0.0),
        "face_width": _spread(rng, 0.04),
        "face_height": _spread(rng, 0.03),
        "jaw": _spread(rng, 0.06),
        "eye_spacing": _spread(rng, 0.035),
        "eye_size": _spread(rng, 0.05),
        "nose_width": _spread(rng, 0.1),
        "nose_length": _spread(rng, 0.05),
        "mouth_width": _spread(rng, 0.05),
        "lip_thickness": _spread(rng, 0.12),
        "brow_thickness": _spread(rng, 0.14),
        "resting_mouth": _spread(rng, 0.004, 0.0),
        "age": float(rng.beta(1.2, 3.0)),
        "stubble": float(rng.uniform(0.2, 0.8)) if rng.random() < 0.15 else 0.0,
        "hair_style": _choice(rng, HAIR_STYLES, _HAIR_STYLE_ODDS),
        "hair_colour": hair_colour,
        "iris_colour": iris_colour,
        "skin_tone": skin_tone,
        "clothes": _colour(rng, 40, 200),
    }


def _sample_view(rng: np.random.Generator) -> dict[str, float | int | str]:
    return {
        "yaw": float(np.clip(rng.normal(0, 12), -MAX_YAW, MAX_YAW)),
        "pitch": float(np.clip(rng.normal(0, 5), -MAX_PITCH, MAX_PITCH)),
        "roll": float(np.clip(rng.normal(0, 5), -MAX_ROLL, MAX_ROLL)),
        "gaze": float(rng.uniform(-0.6, 0.6)),
        "shift_x": float(rng.uniform(-0.03, 0.03)),
        "shift_y": float(rng.uniform(-0.03, 0.03)),
        "scale": float(rng.uniform(0.93, 1.07)),
        "light_azimuth": float(rng.uniform(-75, 75)),
        "light_elevation": float(rng.uniform(-5, 60)),
        "light_strength": float(rng.uniform(0.05, 0.55)),
        "brightness": float(rng.uniform(0.8, 1.15)),
    }


def _sample_nuisances(rng: np.random.Generator) -> dict[str, float | int | str]:
    covering = _choice(rng, COVERINGS, COVERING_ODDS)
    return {
        "background": _colour(rng, 30, 225),
        "background_slope": float(rng.uniform(-0.25, 0.25)),
        "glasses": _choice(rng, GLASSES, GLASSES_ODDS),
        "covering": covering,
        "covering_colour": _choice(rng, ("#9cc3d8", "#eef0f0", "#2a2c30", "#b9d5c2")),
        "blur": float(rng.uniform(0.2, 0.7)) if rng.random() < 0.4 else 0.0,
        "noise": float(rng.uniform(0.0, 5.0)),
        "noise_seed": int(rng.integers(0, 2**31)),
    }
