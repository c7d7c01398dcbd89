"""The head as a solid: where a point of the face lies in space, and where it falls in the picture.

Head units: x to the right of the picture, y down, z towards the camera; the origin lies between the ears, and an
average face reaches from -1 (crown) to 1 (chin). Each horizontal section is an ellipse, so that turning the head
moves the features and changes the silhouette as it would on a real one.
"""

import numpy as np

from data_pipelines.synthetic.canvas import spline
from data_pipelines.synthetic.factors import Factors

#                  y      half-width  middle z  half-depth
_SECTIONS = (
    (-1.02, 0.00, 0.00, 0.02),
    (-0.97, 0.26, 0.00, 0.30),
    (-0.82, 0.50, 0.00, 0.58),
    (-0.55, 0.68, 0.00, 0.76),
    (-0.20, 0.735, 0.00, 0.80),
    (0.15, 0.72, 0.02, 0.77),
    (0.45, 0.63, 0.12, 0.64),
    (0.68, 0.50, 0.26, 0.47),
    (0.86, 0.335, 0.36, 0.34),
    (0.97, 0.17, 0.42, 0.20),
    (1.00, 0.00, 0.44, 0.03),
)
_JAW_SHARE = np.array((0, 0, 0, 0, 0, 0.1, 0.7, 1.0, 1.0, 1.0, 1.0))
_HINGE = 0.40  # below this height the face follows the jaw
_CAMERA = 7.0  # distance of the camera, in head units

Coordinate = np.ndarray | float


class Head:
    """Geometry of one head in one pose, in a square picture of `side` pixels."""

    def __init__(self, factors: Factors, side: int):
        self.unit = 0.42 * side * factors.scale
        self.centre = np.array((0.5 + factors.shift_x, 0.525 + factors.shift_y)) * side
        self.yaw = np.radians(factors.yaw)
        self.drop = 0.15 * factors.au26
        self.rotation = _rotation(factors.yaw, factors.pitch, factors.roll)
        sections = np.array(_SECTIONS)
        sections[:, 1] *= factors.face_width * (1 + (factors.jaw - 1) * _JAW_SHARE)
        sections[:, 0] *= factors.face_height
        sections[:, 0] += self.drop * np.clip((sections[:, 0] - _HINGE) / (1 - _HINGE), 0, 1)
        table = spline(sections, 44)
        self.heights, self.widths, self.middles, self.depths = (np.ascontiguousarray(c) for c in table.T)
        self.widths = np.maximum(self.widths, 1e-3)
        self.depths = np.maximum(self.depths, 1e-3)

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


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """(3, 3) matrix for row vectors: turn, then nod, then tilt; degrees, signs as in Factors."""
    (sy, sp, sr), (cy, cp, cr) = np.sin(np.radians((yaw, pitch, roll))), np.cos(np.radians((yaw, pitch, roll)))
    turn = np.array(((cy, 0, -sy), (0, 1, 0), (sy, 0, cy)))
    nod = np.array(((1, 0, 0), (0, cp, sp), (0, -sp, cp)))
    tilt = np.array(((cr, sr, 0), (-sr, cr, 0), (0, 0, 1)))
    return turn @ nod @ tilt
