"""What the detectors find in drawn faces and in a toy model's patterns, and that every mistake is one line."""

import dataclasses
import os
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_pipelines.common.errors import DataError, UsageError
from data_pipelines.faces import detectors
from data_pipelines.faces.detectors import Face, create
from data_pipelines.synthetic import draw, sample_factors
from data_pipelines.synthetic.head import Head

SIZE = 220
DRAWN = [sample_factors(1, index) for index in range(60)]
FRONTAL = [factors for factors in DRAWN if abs(factors.yaw) < 15 and factors.covering == "none"][:24]


def scene(*places: tuple[int, int, int], size: tuple[int, int] = (640, 480)) -> np.ndarray:
    """A plain picture (width, height) with drawn faces of SIZE pixels: (number of the face, x, y) each."""
    picture = np.full((size[1], size[0], 3), (96, 120, 140), np.uint8)
    for index, x, y in places:
        picture[y : y + SIZE, x : x + SIZE] = draw(FRONTAL[index], SIZE)
    return picture


def true_box(index: int, x: float, y: float, size: int = SIZE) -> tuple[float, float, float, float]:
    """From the left to the right of the drawn head, and as high, down to the chin: what BlazeFace's boxes span."""
    outline = Head(FRONTAL[index], size).silhouette()
    left, right = outline[:, 0].min(), outline[:, 0].max()
    return x + left, y + outline[:, 1].max() - (right - left), right - left, right - left


def overlap(first: tuple[float, float, float, float], second: tuple[float, float, float, float]) -> float:
    """Intersection over union."""
    across = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    down = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    common = max(across, 0.0) * max(down, 0.0)
    return common / (first[2] * first[3] + second[2] * second[3] - common)


@pytest.fixture(scope="module")
def haar() -> detectors.Detector:
    return create("haar")


def test_haar_finds_most_drawn_faces(haar: detectors.Detector) -> None:
    found = with_eyes = 0
    for index in range(len(FRONTAL)):
        x, y = 20 + 16 * index, 250 - 10 * index
        faces = haar.detect(scene((index, x, y)))
        if faces and overlap(faces[0].box, true_box(index, x, y)) > 0.5:
            found += 1
            with_eyes += faces[0].eyes is not None
    assert found >= 21
    assert with_eyes >= 18


def test_haar_finds_the_eyes(haar: detectors.Detector) -> None:
    """The drawn irises' middle, in head units: 0.325 to each side and 0.13 above the origin, turned with the head."""
    checked = 0
    for drawn in FRONTAL:
        factors = dataclasses.replace(drawn, gaze=0.0, eye_spacing=1.0)
        picture = np.full((480, 640, 3), 128, np.uint8)
        picture[100 : 100 + SIZE, 200 : 200 + SIZE] = draw(factors, SIZE)
        for eyes in [face.eyes for face in haar.detect(picture)[:1] if face.eyes]:
            truth = Head(factors, SIZE).on_face(np.array(((-0.325, -0.13), (0.325, -0.13)))) + (200, 100)
            apart = float(np.hypot(*(truth[1] - truth[0])))
            assert np.hypot(*(np.array(eyes) - truth).T).max() < 0.2 * apart
            checked += 1
    assert checked >= 18


def test_haar_finds_several_faces(haar: detectors.Detector) -> None:
    places = [(0, 40, 30), (3, 400, 40), (5, 220, 240)]
    faces = haar.detect(scene(*places))
    for place in places:
        assert max(overlap(face.box, true_box(*place)) for face in faces) > 0.5
    assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)
    assert all(0 < face.score < 1 for face in faces)


def test_haar_scales_boxes_back(haar: detectors.Detector) -> None:
    """The same scene four times as large, beyond the size that is searched, gives boxes four times as large."""
    small = scene((0, 40, 30), (3, 400, 40))
    large = cv2.resize(small, None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
    once, again = haar.detect(small)[:2], haar.detect(large)[:2]
    for x, y, width, height in (face.box for face in once):
        assert max(overlap((4 * x, 4 * y, 4 * width, 4 * height), face.box) for face in again) > 0.9


@pytest.mark.parametrize("size", [24, 48, 100])
def test_haar_finds_a_face_that_fills_a_small_picture(haar: detectors.Detector, size: int) -> None:
    found = 0
    for index, factors in enumerate(FRONTAL):
        faces = haar.detect(draw(factors, size))
        found += bool(faces) and overlap(faces[0].box, true_box(index, 0, 0, size)) > 0.5
    assert found >= 21


def test_haar_finds_a_face_cut_out_tightly(haar: detectors.Detector) -> None:
    found = 0
    for index, factors in enumerate(FRONTAL):
        x, y, side, _ = true_box(index, 0, 0)
        left, top, right, bottom = (round(edge) for edge in (x, y, x + side, y + side))
        tight = draw(factors, SIZE)[max(top - 20, 0) : bottom + 20, max(left - 20, 0) : right + 20]
        found += bool(haar.detect(np.ascontiguousarray(tight)))
    assert found >= 20


@pytest.mark.parametrize("shape", [(480, 640), (48, 48), (1, 1), (2, 700), (700, 2), (19, 21)])
def test_haar_finds_nothing_in_an_empty_picture(haar: detectors.Detector, shape: tuple[int, int]) -> None:
    height, width = shape
    assert haar.detect(np.full((height, width, 3), 120, np.uint8)) == []
    slope = np.linspace(0, 255, width).astype(np.uint8)
    assert haar.detect(np.ascontiguousarray(np.broadcast_to(slope[None, :, None], (height, width, 3)))) == []


def test_haar_in_threads_gives_the_same(haar: detectors.Detector) -> None:
    pictures = [scene((index, 30 * index, 10 * index)) for index in range(10)]
    alone = [haar.detect(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(haar.detect, pictures + pictures)) == alone + alone
    assert any(alone)


# A toy model in YuNet's form, written as the bytes of an ONNX file, so that OpenCV's own code runs: a cell of 8 pixels
# is a face if it is red. Its box is 32 wide and 40 high around the cell's middle; the person's right eye is the cell's
# upper left corner, the left eye the upper right one.

CELLS = (8, 16, 32)
NUMBERS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
BIASES = {"cls": [0.0], "obj": [1.0], "bbox": [0.5, 0.5, np.log(4), np.log(5)], "kps": [0.0, 0.0, 1.0, 0.0] + [0.5] * 6}


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | str | bytes) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name: str, values: np.ndarray) -> bytes:
    kind = 1 if values.dtype == np.float32 else 7
    dims = b"".join(field(1, size) for size in values.shape)
    return field(5, dims + field(2, kind) + field(8, name) + field(9, values.tobytes()))


def node(kind: str, inputs: list[str], output: str, **attributes: list[int]) -> bytes:
    fields = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind)
    for name, numbers in attributes.items():
        fields += field(5, field(1, name) + b"".join(field(8, number) for number in numbers) + field(20, 7))
    return field(1, fields)


def value(name: str, *sizes: int | str) -> bytes:
    dims = b"".join(field(1, field(1, size) if isinstance(size, int) else field(2, size)) for size in sizes)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


def toy_yunet(box_numbers: int = 4) -> bytes:
    graph = field(11, value("input", 1, 3, "height", "width"))
    for cell in CELLS:
        for kind, number in NUMBERS.items():
            name, number = f"{kind}_{cell}", box_numbers if kind == "bbox" else number
            weights = np.zeros((number, 3, cell, cell), np.float32)
            if name == "cls_8":
                weights[:] = np.array((-1, -1, 1), np.float32)[None, :, None, None] / (64 * 255)  # blue, green, red
            graph += tensor(f"{name}_w", weights) + tensor(f"{name}_b", np.array(BIASES[kind][:number], np.float32))
            graph += tensor(f"{name}_s", np.array((1, -1, number)))
            inputs = ["input", f"{name}_w", f"{name}_b"]
            graph += node("Conv", inputs, f"{name}_c", kernel_shape=[cell, cell], strides=[cell, cell])
            graph += node("Transpose", [f"{name}_c"], f"{name}_t", perm=[0, 2, 3, 1])
            graph += node("Reshape", [f"{name}_t", f"{name}_s"], name)
            graph += field(12, value(name, 1, "cells", number))
    return field(1, 8) + field(7, graph + field(2, "toy")) + field(8, field(1, "") + field(2, 11))


@pytest.fixture(scope="module")
def yunet(tmp_path_factory: pytest.TempPathFactory) -> detectors.Detector:
    path = tmp_path_factory.mktemp("model") / "toy.onnx"
    path.write_bytes(toy_yunet())
    return create("yunet", str(path))


def marks(width: int, height: int, *squares: tuple[int, int, int, int], red: int = 255) -> np.ndarray:
    """Black with red rectangles: x, y, width, height."""
    picture = np.zeros((height, width, 3), np.uint8)
    for x, y, across, down in squares:
        picture[y : y + down, x : x + across, 0] = red
    return picture


@pytest.mark.parametrize("scale", [1, 2, 5])  # 160x96 and 320x192 are searched as they are, 800x480 at 2/5
def test_yunet_rows_become_faces(yunet: detectors.Detector, scale: int) -> None:
    cell, unit = (20, 2.5) if scale == 5 else (8, 1.0)
    (face,) = yunet.detect(marks(160 * scale, 96 * scale, (5 * cell, 4 * cell, cell, cell)))
    assert face.box == pytest.approx((28 * unit, 16 * unit, 32 * unit, 40 * unit), abs=1e-3)
    assert face.eyes is not None
    assert face.eyes[0] == pytest.approx((40 * unit, 32 * unit), abs=1e-3)
    assert face.eyes[1] == pytest.approx((48 * unit, 32 * unit), abs=1e-3)
    assert face.score == pytest.approx(1.0, abs=1e-3)


def test_yunet_enlarges_small_pictures(yunet: detectors.Detector) -> None:
    (face,) = yunet.detect(marks(64, 48, (20, 16, 4, 4)))  # searched at 128x96
    assert face.box == pytest.approx((22 - 8, 18 - 10, 16, 20), abs=1e-3)


def test_yunet_gives_the_surest_first_and_leaves_out_the_unsure(yunet: detectors.Detector) -> None:
    picture = np.maximum(marks(320, 160, (40, 32, 8, 8), red=180), marks(320, 160, (200, 96, 8, 8), red=240))
    picture = np.maximum(picture, marks(320, 160, (280, 32, 8, 8), red=80))  # sqrt(80 / 255) is 0.56
    faces = yunet.detect(picture)
    assert [round(face.box[0]) for face in faces] == [204 - 16, 44 - 16]
    assert [face.score for face in faces] == pytest.approx([(240 / 255) ** 0.5, (180 / 255) ** 0.5], abs=1e-3)
    assert yunet.detect(marks(320, 160, (280, 32, 8, 8), red=80)) == []
    assert yunet.detect(picture[..., ::-1]) == []  # blue is not red


def test_what_is_found_only_with_a_border_is_moved_back(yunet: detectors.Detector) -> None:
    """Two red columns at the right rim are too few for a cell; repeated in the border they fill three."""
    picture = marks(160, 96, (158, 32, 2, 8))
    (face,) = yunet.detect(picture)
    assert face.box == pytest.approx((148, 16, 32, 40), abs=1e-3)  # the border's first cell is at 160
    assert face.eyes is not None
    assert face.eyes[0] == pytest.approx((160, 32), abs=1e-3)


def test_yunet_in_threads_gives_the_same(yunet: detectors.Detector) -> None:
    pictures = [marks(160 + 8 * n, 96, (8 * n, 32, 8, 8)) for n in range(3, 15)]
    alone = [yunet.detect(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(yunet.detect, pictures * 4)) == alone * 4
    assert all(alone)


class FakeMediaPipe(types.ModuleType):
    """MediaPipe's FaceDetector as far as it is used; it finds what the test says in pictures of a size."""

    def __init__(self, results: dict[tuple[int, int], list[Any]]) -> None:
        super().__init__("mediapipe")
        self.ImageFormat = types.SimpleNamespace(SRGB="srgb")
        self.Image = lambda image_format, data: data
        detector = types.SimpleNamespace(
            detect=lambda data: types.SimpleNamespace(detections=results.get(data.shape[:2], []))
        )
        vision = types.SimpleNamespace(
            FaceDetectorOptions=lambda base_options, min_detection_confidence: None,
            FaceDetector=types.SimpleNamespace(create_from_options=lambda options: detector),
        )
        self.tasks = types.SimpleNamespace(BaseOptions=lambda model_asset_buffer: None, vision=vision)


def detection(box: tuple[int, int, int, int], score: float, *points: tuple[float, float]) -> Any:
    names = ("origin_x", "origin_y", "width", "height")
    return types.SimpleNamespace(
        bounding_box=types.SimpleNamespace(**dict(zip(names, box, strict=True))),
        categories=[types.SimpleNamespace(score=score)],
        keypoints=[types.SimpleNamespace(x=x, y=y) for x, y in points],
    )


@pytest.fixture
def model_file(tmp_path: Path) -> str:
    path = tmp_path / "face.tflite"
    path.write_bytes(bytes(4) + b"TFL3" + bytes(100))
    return str(path)


def test_blazeface_results_become_faces(monkeypatch: pytest.MonkeyPatch, model_file: str) -> None:
    found = [
        detection((10, 20, 50, 50), 0.6, (0.1, 0.3), (0.2, 0.25), (0.15, 0.4)),
        detection((100, 40, 60, 60), 0.9, (0.75, 0.5), (0.625, 0.5), (0.7, 0.6)),  # the left eye first
        detection((400, 40, 60, 60), 0.95),  # outside
    ]
    monkeypatch.setitem(sys.modules, "mediapipe", FakeMediaPipe({(100, 200): found}))
    faces = create("blazeface", model_file).detect(np.zeros((100, 200, 3), np.uint8))
    assert faces == [
        Face((100, 40, 60, 60), 0.9, ((125, 50), (150, 50))),
        Face((10, 20, 50, 50), 0.6, ((20, 30), (40, 25))),
    ]


def test_blazeface_tries_again_with_a_border(monkeypatch: pytest.MonkeyPatch, model_file: str) -> None:
    found = [detection((20, 30, 100, 100), 0.7, (0.25, 0.5), (0.5, 0.5))]
    monkeypatch.setitem(sys.modules, "mediapipe", FakeMediaPipe({(150, 250): found}))  # a border of 25 pixels
    (face,) = create("blazeface", model_file).detect(np.zeros((100, 200, 3), np.uint8))
    assert face == Face((-5, 5, 100, 100), 0.7, ((37.5, 50), (100, 50)))


def assert_one_line(error: pytest.ExceptionInfo[UsageError]) -> None:
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "model", "why"),
    [
        ("retina", None, "there is no face detector 'retina'; known: haar, yunet, blazeface"),
        ("", None, "there is no face detector ''"),
        ("haar", "x.xml", "haar brings its own model; leave out x.xml"),
        ("yunet", None, r"yunet needs a model file, such as face_detection_yunet_2023mar\.onnx; or use haar"),
        ("blazeface", None, r"blazeface needs a model file, such as blaze_face_short_range\.tflite; or use haar"),
    ],
)
def test_wrong_request(name: str, model: str | None, why: str) -> None:
    with pytest.raises(DataError, match=why) as error:
        create(name, model)
    assert_one_line(error)


NAMES = b" ".join(f"{kind}_{cell}".encode() for kind in NUMBERS for cell in CELLS)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("yunet", b"", "no YuNet model of 2023 or later"),
        ("yunet", b"no model\n" * 9, "no YuNet model of 2023 or later"),
        ("yunet", NAMES, "no YuNet model that this OpenCV reads"),
        ("yunet", toy_yunet()[:-40], "no YuNet model that this OpenCV reads"),
        ("yunet", toy_yunet().replace(b"Conv", b"Vonc"), "no YuNet model that this OpenCV reads"),
        ("yunet", toy_yunet(box_numbers=3), "output bbox_8 has 4800 numbers, expected 6400"),
        ("blazeface", b"", "no TensorFlow Lite model"),
        ("blazeface", b"no model\n" * 9, "no TensorFlow Lite model"),
        ("blazeface", toy_yunet(), "no TensorFlow Lite model"),
    ],
)
def test_wrong_model(name: str, data: bytes, why: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model"
    path.write_bytes(data)
    with pytest.raises(DataError, match=why) as error:
        create(name, str(path))
    assert str(error.value).startswith(f"{path}: ")
    assert_one_line(error)
    assert "".join(capfd.readouterr()) == ""  # the library prints nothing beside it


@pytest.mark.parametrize("name", ["yunet", "blazeface"])
def test_model_file_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there/model: cannot be read \(No such file or directory\)") as error:
        create(name, str(tmp_path / "there" / "model"))
    assert_one_line(error)
    with pytest.raises(DataError, match="neither a file nor a link to one; give the model file"):
        create(name, str(tmp_path))
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    with pytest.raises(DataError, match="pipe: neither a file"):
        create(name, str(tmp_path / "pipe"))
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(detectors.MAX_MODEL_BYTES + 1)
    with pytest.raises(DataError, match="large: larger than 16 MiB"):
        create(name, str(tmp_path / "large"))


def test_library_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_file: str) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    path = tmp_path / "toy.onnx"
    path.write_bytes(toy_yunet())
    extras = {"haar": "faces", "yunet": "faces", "blazeface": "blazeface"}
    for name, model in (("haar", None), ("yunet", str(path)), ("blazeface", model_file)):
        with pytest.raises(DataError, match="is not installed; run: pip install -c") as error:
            create(name, model)
        assert str(error.value).endswith(f"'.[{extras[name]}]'")
        assert_one_line(error)


def test_opencv_without_cascades(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV 5 has neither the class nor the files."""
    monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(DataError, match="has no Haar cascades, OpenCV 4 has; run: pip install"):
        create("haar")


def test_blazeface_that_mediapipe_refuses(monkeypatch: pytest.MonkeyPatch, model_file: str) -> None:
    def refuse(options: object) -> None:
        raise RuntimeError("INVALID_ARGUMENT:\n  no metadata")

    library = FakeMediaPipe({})
    library.tasks.vision.FaceDetector.create_from_options = refuse
    monkeypatch.setitem(sys.modules, "mediapipe", library)
    with pytest.raises(DataError, match=r"face\.tflite: no model for MediaPipe's FaceDetector \(INVALID") as error:
        create("blazeface", model_file)
    assert_one_line(error)
