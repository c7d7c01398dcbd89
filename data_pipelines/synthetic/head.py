"""The head as a solid, where its points fall in the picture, and how action units shape brows, eyes and mouth on it.

Head units: x to the right of the picture, y down, z towards the camera; the origin lies between the ears, and an
average face reaches from -1 (crown) to 1 (chin). Each horizontal section is an ellipse, so that turning the head
moves the features and changes the silhouette as it would on a real one.

Nothing here knows an emotion, and nowhere else does a muscle move anything. `side` is -1 for the left of the picture,
which is the person's right, and +1 for the other.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from data_pipelines.synthetic.canvas import spline
from data_pipelines.synthetic.factors import SIDED, Factors

# Height, half-width, middle z, half-depth, and how much of the jaw's width the section takes over.
_SECTIONS = (
    (-1.02, 0.00, 0.00, 0.02, 0.0),
    (-0.97, 0.26, 0.00, 0.30, 0.0),
    (-0.82, 0.50, 0.00, 0.58, 0.0),
    (-0.55, 0.68, 0.00, 0.76, 0.0),
    (-0.20, 0.735, 0.00, 0.80, 0.0),
    (0.15, 0.72, 0.02, 0.77, 0.1),
    (0.45, 0.63, 0.12, 0.64, 0.7),
    (0.68, 0.50, 0.26, 0.47, 1.0),
    (0.86, 0.335, 0.36, 0.34, 1.0),
    (0.97, 0.17, 0.42, 0.20, 1.0),
    (1.00, 0.00, 0.44, 0.03, 1.0),
)
_HINGE = 0.40  # below this height the face follows the jaw
_CAMERA = 7.0  # distance of the camera, in head units

Coordinate = np.ndarray | float
Units = dict[int, float]


class Head:
    """Geometry of one head in one pose, in a square picture of `side` pixels."""

    def __init__(self, factors: Factors, side: int):
        self.unit = 0.42 * side * factors.scale
        self.centre = np.array((0.5 + factors.shift_x, 0.525 + factors.shift_y)) * side
        self.yaw = np.radians(factors.yaw)
        self.drop = 0.15 * factors.au26
        # (3, 3), for row vectors: turn, then nod, then tilt.
        angles = factors.roll, factors.pitch, factors.yaw
        self.rotation = Rotation.from_euler("ZXY", angles, degrees=True).as_matrix().T
        y, width, middle, depth, jaw_share = np.array(_SECTIONS).T
        width *= factors.face_width * (1 + (factors.jaw - 1) * jaw_share)
        y *= factors.face_height
        y += self.drop * np.clip((y - _HINGE) / (1 - _HINGE), 0, 1)
        self.heights, width, self.middles, depth = spline(np.column_stack((y, width, middle, depth)), 44).T.copy()
        self.widths, self.depths = np.maximum(width, 1e-3), np.maximum(depth, 1e-3)

    def to_picture(self, x: Coordinate, y: Coordinate, z: Coordinate) -> np.ndarray:
        """Points in space, each coordinate an array (n,) or one number for all, to pixels (n, 2)."""
        turned = np.column_stack(np.broadcast_arrays(np.atleast_1d(x), y, z)) @ self.rotation
        nearness = _CAMERA / (_CAMERA - turned[:, 2:])
        return self.centre + self.unit * turned[:, :2] * nearness

    def on_face(self, points: np.ndarray, lift: Coordinate = 0.0) -> np.ndarray:
        """Points (n, 2) drawn on the front of the face, raised by `lift` head units, to pixels (n, 2)."""
        x, y = points[:, 0], points[:, 1]
        across = np.clip(x / np.interp(y, self.heights, self.widths), -0.99, 0.99)
        z = np.interp(y, self.heights, self.middles) + np.interp(y, self.heights, self.depths) * np.sqrt(1 - across**2)
        return self.to_picture(x, y, z + lift)

    def around(self, azimuth: Coordinate, y: Coordinate, grow: Coordinate = 1.0) -> np.ndarray:
        """Points at an azimuth (degrees, 0 the front, > 0 to the picture's right) and height, to pixels (n, 2).

        What would lie behind the head is brought to its silhouette. `grow` swells the head, for hair.
        """
        width = np.interp(y, self.heights, self.widths) * grow
        depth = np.interp(y, self.heights, self.depths) * grow
        right = np.arctan2(width * np.cos(self.yaw), depth * np.sin(self.yaw))
        angle = np.clip(np.radians(azimuth), right - np.pi, right)
        x, z = width * np.sin(angle), np.interp(y, self.heights, self.middles) + depth * np.cos(angle)
        return self.to_picture(x, y * grow, z)

    def silhouette(self) -> np.ndarray:
        """The outline of the head, pixels (n, 2), from the crown down its left side and up its right."""
        y = self.heights
        return np.concatenate((self.around(-180.0, y), self.around(180.0, y)[::-1]))


EYE_Y = -0.11
MOUTH_Y = 0.53
_PAIRED = (1, 2, 4, 5, 6, 7, 9, 15, 16, 17, 20, 23, 25, 26)


def side_units(factors: Factors, side: int) -> Units:
    """Intensities of the units as they act on one side of the face."""
    gain = 1 + side * factors.asymmetry
    name = "right" if side < 0 else "left"
    fields = {unit: f"au{unit}" for unit in _PAIRED} | {unit: f"au{unit}_{name}" for unit in SIDED}
    return {unit: getattr(factors, field) * gain for unit, field in fields.items()}


_BROW_X = np.array((0.115, 0.20, 0.31, 0.42, 0.53))
_BROW_Y = np.array((-0.345, -0.375, -0.395, -0.385, -0.325))
_BROW_RAISE_INNER = np.array((-0.15, -0.11, -0.05, -0.01, 0.0))
_BROW_RAISE_OUTER = np.array((0.0, -0.04, -0.10, -0.135, -0.11))
_BROW_LOWER = np.array((0.15, 0.125, 0.085, 0.035, 0.0))
_BROW_TOGETHER = np.array((-0.05, -0.045, -0.03, -0.01, 0.0))
_BROW_WRINKLE = np.array((0.085, 0.065, 0.04, 0.015, 0.0))


def brow_curve(factors: Factors, units: Units, side: int) -> np.ndarray:
    """(16, 2) midline of an eyebrow, from its inner end to its outer end."""
    x = _BROW_X * factors.eye_spacing + units[4] * _BROW_TOGETHER
    y = _BROW_Y + units[1] * _BROW_RAISE_INNER + units[2] * _BROW_RAISE_OUTER + units[9] * _BROW_WRINKLE
    # Where 1 acts too it holds the inner end up against 4: the oblique brow of sadness.
    y = y + units[4] * (1 - 0.75 * min(units[1], 1.0)) * _BROW_LOWER
    return spline(np.stack((side * x, y), axis=-1), 16)


class Eye(NamedTuple):
    """Shape of one eye: lid curves (13, 2) from the inner corner to the outer, and the iris."""

    upper: np.ndarray
    lower: np.ndarray
    centre: tuple[float, float]
    iris: float


_LID_S = np.linspace(-1, 1, 13)
_LID_ARCH = (1 - np.abs(_LID_S) ** 2.3) ** 0.85


def eye_shape(factors: Factors, units: Units, side: int) -> Eye:
    """The opening of one eye."""
    size, middle = factors.eye_size, side * 0.325 * factors.eye_spacing
    up = 0.074 + 0.066 * units[5] - 0.024 * units[7] - 0.010 * units[6] - 0.026 * units[9] - 0.008 * units[4]
    down = 0.046 + 0.014 * units[5] - 0.030 * units[7] - 0.040 * units[6] - 0.020 * units[9]
    up, down = max(up, 0.018) * size, max(down, -0.012) * size
    x = middle + side * 0.155 * size * _LID_S
    corners = EYE_Y + 0.004 - 0.010 * _LID_S
    # 1 with 4, when nothing lifts the lid, pulls its inner part up and lets the outer part hang.
    hang = 0.05 * min(units[1], 1.0) * min(units[4], 1.0) * max(0.0, 1 - 2 * units[5])
    upper = corners - _LID_ARCH * (up - hang * (0.35 + 0.8 * _LID_S))
    lower = corners + _LID_ARCH * down
    return Eye(
        upper=np.stack((x, np.minimum(upper, lower - 0.004)), axis=-1),
        lower=np.stack((x, lower), axis=-1),
        centre=(middle + 0.05 * factors.gaze, EYE_Y - 0.018),
        iris=0.074 * size,
    )


class Mouth(NamedTuple):
    """Shape of the mouth: four curves (25, 2) from the left of the picture to its right, and how far it is open."""

    upper_outer: np.ndarray
    upper_inner: np.ndarray
    lower_inner: np.ndarray
    lower_outer: np.ndarray
    opening: float


_S = np.linspace(-1, 1, 25)
_BOW = 1 - 0.22 * np.exp(-((_S / 0.16) ** 2)) + 0.10 * np.exp(-(((np.abs(_S) - 0.26) / 0.16) ** 2))


def _corner(factors: Factors, units: Units, mean: Units) -> tuple[float, float]:
    """Half-width of the mouth on one side, and the height of its corner against the middle (> 0 is lower)."""
    across = 0.235 * factors.mouth_width
    across += 0.085 * units[12] + 0.115 * units[20] + 0.012 * units[15] + 0.03 * units[14]
    across -= 0.04 * units[23] + 0.085 * max(mean[26] - 0.7 * mean[20], 0.0) + 0.02 * units[17]
    height = -0.165 * units[12] - 0.045 * units[14] + 0.125 * units[15] + 0.03 * units[20] - factors.resting_mouth
    return across, height


def mouth_shape(factors: Factors, right: Units, left: Units, mean: Units) -> Mouth:
    """The lips; `right` and `left` are the units of the person's sides, `mean` their means."""
    (across_r, height_r), (across_l, height_l) = _corner(factors, right, mean), _corner(factors, left, mean)
    x = np.where(_S < 0, across_r, across_l) * _S
    bend = np.abs(_S) ** 1.7
    # A smile is one curve through both corners; a single raised corner bends its own half only.
    base = MOUTH_Y + np.where(_S < 0, height_r, height_l) * bend + 0.035 * min(mean[12], 1.0)
    raised = 0.06 * mean[9] + 0.012 * mean[16]
    base = base - raised * (1 - _S**2) * 0.35 - 0.03 * mean[17] * (1 - _S**2)
    stretched = min(mean[20], 1.0)
    arch = (1 - np.abs(_S) ** (2.0 + 2.0 * stretched)) ** (0.75 - 0.2 * stretched)
    parted = max(mean[25], 0.75 * mean[9] * min(1.0, 1.6 * mean[16]))
    open_up = 0.022 * parted + 0.05 * mean[26] + 0.045 * mean[9] * mean[16]
    open_down = 0.062 * parted + 0.28 * mean[26] * (1 - 0.35 * stretched) + 0.05 * mean[16] * parted
    thin = 1 - 0.62 * min(mean[23], 1.0) - 0.22 * min(mean[12], 1.0) - 0.15 * stretched - 0.2 * mean[15]
    lip = factors.lip_thickness * max(thin, 0.25)
    upper_inner, lower_inner = base - open_up * arch, base + open_down * arch
    full = (1 - _S**2) ** 0.7
    upper_outer = upper_inner - 0.066 * lip * full * _BOW
    lower_outer = lower_inner + 0.088 * lip * (1 + 0.25 * mean[17] + 0.2 * mean[16]) * full
    a, b, c, d = (np.column_stack((x, y)) for y in (upper_outer, upper_inner, lower_inner, lower_outer))
    return Mouth(a, b, c, d, opening=open_up + open_down)
