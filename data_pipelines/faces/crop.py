"""From a picture and the face found in it to a square face picture: the paper's margins, or alignment by the eyes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data_pipelines.faces import detectors
from data_pipelines.faces.detectors import Face

#: The published margins, as parts of the face's box: it begins a tenth further out and is a fifth larger.
MOVED_OUT = 0.1
GROWN = 1.2

#: Where `align` puts the person's right and left eye, as parts of the side. They are the eyes of the template of five
#: points in 112 x 112 pixels that face recognition uses, (38.29, 51.70) and (73.53, 51.50) (Deng et al. 2019, ArcFace),
#: made symmetric, so that a mirrored picture is aligned the same way.
EYES = ((0.343, 0.461), (0.657, 0.461))

#: Eyes closer together than this part of the box's width are a profile's or wrong. A frontal face has them about 0.4
#: apart; aligned by eyes that are much closer, the face would no longer fit into its picture.
MIN_EYE_DISTANCE = 0.25

#: Faces whose size and score together reach this part of the greatest are candidates alike for `best`.
AS_GOOD = 0.8


@dataclass(frozen=True)
class Faces:
    """How faces are cut out of the pictures."""

    detector: str  # a name of `detectors.NAMES`
    model: str | None = None  # the file that some detectors need
    align: bool = False  # turn the eyes level, instead of the published margins
    recrop: bool = False  # also where the pictures are crops of faces already


class FaceCrop:
    """Finds the labelled face and cuts it out: with the published margins, or turned so that the eyes lie level."""

    def __init__(self, faces: Faces, side: int) -> None:
        """Makes the detector; `side` is that of the crop, in pixels. Raises DataError where it cannot be made."""
        self._detector = detectors.create(faces.detector, faces.model)
        self._cut, self._side = align if faces.align else crop, side
        #: Everything that decides what is cut out, in one line.
        self.text = f"{faces.detector}, {'eyes level' if faces.align else 'published margins'}, {side} px"

    def __call__(self, rgb: np.ndarray) -> np.ndarray | None:
        """The face in (H, W, 3) as (side, side, 3), both uint8; None if there is none."""
        found = self._detector.detect(rgb)
        return self._cut(rgb, best(found, rgb.shape[1], rgb.shape[0]), self._side) if found else None


def paper_box(face: Face, width: int, height: int) -> tuple[int, int, int, int]:
    """The part of a picture of width x height pixels that the paper cuts out for a face: (left, top, right, bottom).

    The box is moved out by a tenth of its width and height, made a fifth larger, and clipped to the picture, as in the
    notebooks that the authors of ExpressNet-MoE (arXiv 2510.13493) published. The result is in whole pixels, right and
    bottom exclusive, and at least one pixel wide and high. Raises ValueError for a box outside the picture.
    """
    x, y, box_width, box_height = face.box
    left, right = _clip(x - MOVED_OUT * box_width, GROWN * box_width, width)
    top, bottom = _clip(y - MOVED_OUT * box_height, GROWN * box_height, height)
    return left, top, right, bottom


def _clip(start: float, length: float, limit: int) -> tuple[int, int]:
    if start >= limit or start + length <= 0:
        raise ValueError(f"the face from {start:.0f} to {start + length:.0f} lies outside a picture of {limit} pixels")
    first = min(max(round(start), 0), limit - 1)
    return first, max(min(round(start + length), limit), first + 1)


def crop(rgb: np.ndarray, face: Face, side: int) -> np.ndarray:
    """The face with the paper's margins, stretched to a square: bilinear, smoothed where it shrinks.

    From uint8 (height, width, 3) to uint8 (side, side, 3), in the same channel order.
    """
    cut = Image.fromarray(rgb).crop(paper_box(face, rgb.shape[1], rgb.shape[0]))
    return np.asarray(cut.resize((side, side), Image.Resampling.BILINEAR))


def align(rgb: np.ndarray, face: Face, side: int) -> np.ndarray:
    """The face turned and scaled, never stretched, so that its eyes lie at EYES; black beyond the picture.

    From uint8 (height, width, 3) to uint8 (side, side, 3), in the same channel order. A face without eyes, or with eyes
    closer than MIN_EYE_DISTANCE, is cut out by `crop` instead.
    """
    if face.eyes is None:
        return crop(rgb, face, side)
    right, left = complex(*face.eyes[0]), complex(*face.eyes[1])
    if abs(left - right) < MIN_EYE_DISTANCE * face.box[2]:
        return crop(rgb, face, side)
    # With x + iy for a point, turning and scaling are one complex factor: point = origin + step * point in the result.
    target_right, target_left = (complex(*eye) * side for eye in EYES)
    step = (left - right) / (target_left - target_right)
    origin = right - step * target_right
    region = _region(origin, step, side, rgb.shape[1], rgb.shape[0])
    if region is None:
        return crop(rgb, face, side)
    picture = Image.fromarray(rgb).crop(region)
    across = down = 1.0
    if abs(step) > 1:  # Pillow's transform takes single pixels; the smoothing that shrinking needs comes before it
        size = (max(1, round(picture.width / abs(step))), max(1, round(picture.height / abs(step))))
        across, down = size[0] / picture.width, size[1] / picture.height
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    origin -= complex(region[0], region[1])
    matrix = (
        *(step.real * across, -step.imag * across, origin.real * across),
        *(step.imag * down, step.real * down, origin.imag * down),
    )
    return np.asarray(picture.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def _region(origin: complex, step: complex, side: int, width: int, height: int) -> tuple[int, int, int, int] | None:
    """The upright part of the picture that holds all of the result, and what smoothing needs around it."""
    corners = origin + step * np.array((0, side, side * 1j, side * (1 + 1j)))
    around = 2 * max(abs(step), 1.0)
    left, top = (max(int(part.min() - around), 0) for part in (corners.real, corners.imag))
    right = min(int(corners.real.max() + around) + 1, width)
    bottom = min(int(corners.imag.max() + around) + 1, height)
    return (left, top, right, bottom) if left < right and top < bottom else None


def best(faces: Sequence[Face], width: int, height: int) -> Face:
    """The face that the label of a picture of width x height pixels most probably means; of equals the first.

    A labelled picture shows its face large, and what a detector finds beside it (people behind, a pattern in the
    background) is small or doubtful: so area within the picture times score decides. Where several come close, the
    label is the one's nearest to the centre, because data sets cut their pictures around the labelled face.
    """
    x, y, widths, heights = np.array([face.box for face in faces]).T
    across = np.minimum(x + widths, width) - np.maximum(x, 0)
    down = np.minimum(y + heights, height) - np.maximum(y, 0)
    weights = np.maximum(across, 0) * np.maximum(down, 0) * [face.score for face in faces]
    distances = np.hypot(x + widths / 2 - width / 2, y + heights / 2 - height / 2)
    return faces[int(np.where(weights >= AS_GOOD * weights.max(), distances, np.inf).argmin())]
