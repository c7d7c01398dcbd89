"""Where crops and alignments put things, by numbers worked out by hand and by coloured dots found again."""

import math

import numpy as np
import pytest

from data_pipelines.faces.crop import EYES, align, best, crop, paper_box
from data_pipelines.faces.detectors import Face

RED, GREEN = (255, 0, 0), (0, 255, 0)
Point = tuple[float, float]


def face(
    x: float, y: float, width: float, height: float, score: float = 1.0, eyes: tuple[Point, Point] | None = None
) -> Face:
    return Face((x, y, width, height), score, eyes)


def dots(width: int, height: int, right: Point, left: Point, radius: float) -> np.ndarray:
    """Grey, with a red dot for the person's right eye and a green one for the left; smooth at their rims."""
    picture = np.full((height, width, 3), 128.0)
    rows, columns = np.indices((height, width)) + 0.5
    for (x, y), colour in ((right, RED), (left, GREEN)):
        inside = np.clip(radius + 0.5 - np.hypot(columns - x, rows - y), 0, 1)[..., None]
        picture = inside * colour + (1 - inside) * picture
    return (picture + 0.5).astype(np.uint8)


def centre(picture: np.ndarray, colour: tuple[int, int, int]) -> Point:
    """The middle of a dot, with the first pixel's middle at 0.5."""
    channel, other = (0, 1) if colour == RED else (1, 0)
    weight = np.clip(picture[..., channel].astype(float) - picture[..., other], 0, None)
    rows, columns = np.indices(weight.shape) + 0.5
    return float((columns * weight).sum() / weight.sum()), float((rows * weight).sum() / weight.sum())


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((100, 50, 40, 60), (96, 44, 144, 116)),  # 10 % out, 20 % more
        ((2, 3, 40, 60), (0, 0, 46, 69)),  # clipped left and above; the far sides stay where they were
        ((170, 120, 40, 60), (166, 114, 200, 150)),  # clipped right and below
        ((-10, -10, 300, 300), (0, 0, 200, 150)),
        ((50.4, 50.4, 10.2, 10.2), (49, 49, 62, 62)),  # 49.38 to 61.62
        ((199.6, 10, 0.1, 0.1), (199, 10, 200, 11)),  # never empty
    ],
)
def test_paper_margins(box: tuple[float, float, float, float], expected: tuple[int, int, int, int]) -> None:
    assert paper_box(face(*box), 200, 150) == expected


@pytest.mark.parametrize("box", [(220, 50, 40, 40), (-60, 50, 40, 40), (50, 160, 40, 40), (50, -60, 40, 40)])
def test_face_outside_the_picture(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="lies outside a picture"):
        paper_box(face(*box), 200, 150)


def test_crop_takes_exactly_the_box() -> None:
    picture = np.full((150, 200, 3), 255, np.uint8)
    picture[44:116, 96:144] = (10, 20, 30)
    for side in (24, 48, 224):
        cropped = crop(picture, face(100, 50, 40, 60), side)
        assert cropped.shape == (side, side, 3)
        assert cropped.dtype == np.uint8
        assert (cropped == (10, 20, 30)).all()  # not one of the white pixels around it


def test_crop_stretches_to_a_square() -> None:
    picture = np.zeros((150, 200, 3), np.uint8)
    picture[44:116, 96:120] = RED  # the left half of the box with its margins
    cropped = crop(picture, face(100, 50, 40, 60), 64).astype(int)
    assert (cropped[:, :31] == RED).all()
    assert (cropped[:, 33:] == 0).all()


def test_crop_smooths_where_it_shrinks() -> None:
    stripes = np.zeros((240, 240, 3), np.uint8)
    stripes[:, ::2] = 255
    cropped = crop(stripes, face(20, 20, 200, 200), 30).astype(int)
    assert abs(cropped - 127).max() <= 8


def rotated(angle: float, distance: float, middle: Point) -> tuple[Point, Point]:
    """Eyes `distance` apart around `middle`; a positive angle (degrees) turns the face clockwise in the picture."""
    x, y = math.cos(math.radians(angle)) * distance / 2, math.sin(math.radians(angle)) * distance / 2
    return (middle[0] - x, middle[1] - y), (middle[0] + x, middle[1] + y)


@pytest.mark.parametrize("side", [48, 112, 224])
@pytest.mark.parametrize("angle", [0, 20, -20, 45, 100, 180])
@pytest.mark.parametrize("distance", [24, 70, 160])  # made larger, nearly kept, made smaller
def test_align_puts_the_eyes_in_their_places(side: int, angle: float, distance: float) -> None:
    eyes = rotated(angle, distance, (300, 240))
    picture = dots(600, 480, *eyes, radius=0.16 * distance)
    size = distance * 2.4
    aligned = align(picture, face(300 - size / 2, 240 - size / 2, size, size, eyes=eyes), side)
    assert aligned.shape == (side, side, 3)
    for colour, (x, y) in zip((RED, GREEN), EYES, strict=True):
        assert centre(aligned, colour) == pytest.approx((x * side, y * side), abs=0.25)


def test_align_does_not_stretch() -> None:
    """A square's corner, as far below the eyes' middle as they are apart, stays as far below it, turned with them."""
    right, left = rotated(30, 100, (320, 200))
    below = (320 - math.sin(math.radians(30)) * 100, 200 + math.cos(math.radians(30)) * 100)
    picture = dots(640, 480, right, below, radius=12)  # the green dot is no eye here
    aligned = align(picture, face(200, 100, 240, 240, eyes=(right, left)), 224)
    apart = (EYES[1][0] - EYES[0][0]) * 224
    assert centre(aligned, GREEN) == pytest.approx((112, EYES[0][1] * 224 + apart), abs=0.25)


def test_align_smooths_where_it_shrinks() -> None:
    stripes = np.zeros((900, 900, 3), np.uint8)
    stripes[:, ::2] = 255
    aligned = align(stripes, face(150, 150, 600, 600, eyes=((330, 400), (570, 400))), 48).astype(int)
    assert abs(aligned - 127).max() <= 16


def test_align_is_black_where_the_picture_ends() -> None:
    picture = np.full((120, 120, 3), 200, np.uint8)
    aligned = align(picture, face(0, 0, 100, 100, eyes=((10, 30), (50, 30))), 112)
    # The eyes are 40 apart and 35.2 in the result: 112 of its pixels are 127 of the picture, from -33.7 and -28.7 on.
    assert (aligned[:24] == 0).all()
    assert (aligned[:, :28] == 0).all()
    assert (aligned[27:, 31:] == 200).all()


def test_eyes_are_the_symmetric_template() -> None:
    """Of the 112-pixel template's eyes, (38.2946, 51.6963) and (73.5318, 51.5014), the distance and the height stay."""
    (right, height), (left, other) = EYES
    assert right + left == pytest.approx(1)
    assert height == other == pytest.approx((51.6963 + 51.5014) / 2 / 112, abs=5e-4)
    assert left - right == pytest.approx((73.5318 - 38.2946) / 112, abs=1e-3)


@pytest.mark.parametrize("eyes", [None, ((50.0, 60.0), (50.0, 60.0)), ((50.0, 60.0), (68.0, 60.0))])
def test_align_without_a_true_pair_of_eyes_crops(eyes: tuple[Point, Point] | None) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    found = face(30, 30, 80, 80, eyes=eyes)  # 18 apart are less than a quarter of 80
    np.testing.assert_array_equal(align(picture, found, 64), crop(picture, found, 64))


def test_best_is_the_large_sure_one() -> None:
    large, small = face(100, 100, 80, 80, 0.9), face(300, 200, 40, 40, 0.95)
    assert best([small, large], 640, 480) is large
    doubtful = face(200, 150, 100, 100, 0.3)  # 3,000 against 5,760
    assert best([doubtful, large], 640, 480) is large


def test_best_of_two_alike_is_the_one_in_the_middle() -> None:
    aside, middle = face(20, 180, 100, 100, 0.9), face(290, 200, 95, 95, 0.9)
    assert best([aside, middle], 640, 480) is middle
    assert best([middle, aside], 640, 480) is middle
    far_smaller = face(290, 200, 80, 80, 0.9)  # 64 % of the area
    assert best([aside, far_smaller], 640, 480) is aside


def test_best_counts_only_what_is_in_the_picture() -> None:
    cut_off, whole = face(-150, 100, 200, 200, 0.9), face(450, 300, 110, 110, 0.9)  # 10,000 of 40,000, and 12,100
    assert best([cut_off, whole], 640, 480) is whole


def test_best_of_equals_is_the_first() -> None:
    first, second = face(100, 100, 50, 50), face(490, 330, 50, 50)  # as far from the middle, on both sides
    assert best([first, second], 640, 480) is first
    assert best([second, first], 640, 480) is second
