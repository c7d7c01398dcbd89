"""Faces in photographs: three detectors behind one interface.

None downloads anything. `haar` needs no model: OpenCV 4 ships its cascades. `yunet` and `blazeface` take a model file
from the user, which runs inside this process: its size and its kind are checked before a library parses it.
"""

import abc
import contextlib
import importlib
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from data_pipelines.common.errors import DataError, UsageError
from data_pipelines.common.text import install, reason

NAMES = ("haar", "yunet", "blazeface")

#: The true models have 0.1 to 1.1 MB; more is something else.
MAX_MODEL_BYTES = 16 << 20

#: A border of repeated edge pixels, as a part of the picture's shorter side. Data sets cut their faces out tightly, and
#: detectors need something around a face: with the border haar finds 78 % of FER-2013's faces instead of 60 %, and
#: BlazeFace (full range) 72 % instead of 16 %. A wider border finds no more.
BORDER = 0.25

Point = tuple[float, float]


@dataclass(frozen=True)
class Face:
    """A face in a picture. Coordinates are pixels; the first pixel reaches from 0 to 1, its middle is at 0.5."""

    box: tuple[float, float, float, float]  # x, y, width, height; may reach beyond the picture, but overlaps it
    score: float  # 0 to 1, higher is surer; only comparable within one detector
    eyes: tuple[Point, Point] | None  # centres of the person's right eye and left eye


class Detector(Protocol):
    """Finds faces; may be called from several threads at once."""

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """The faces in a picture, uint8 (height, width, 3), RGB; the surest first, equal ones by size and place.

        Raises DataError if the user's model fails on this picture.
        """


def create(name: str, model: str | None = None) -> Detector:
    """The detector `name`, one of NAMES.

    Args:
        name: `haar` (OpenCV's cascades), `yunet` (OpenCV's FaceDetectorYN), `blazeface` (MediaPipe's FaceDetector).
        model: path of the model: an .onnx file for yunet, a .tflite or .task file for blazeface, None for haar.

    Raises:
        DataError: unknown name; a model missing, unreadable, not that detector's, or given where none is needed; the
            library is not installed.
    """
    if name not in NAMES:
        raise UsageError(f"there is no face detector {name!r}; known: {', '.join(NAMES)}")
    if name == "haar":
        if model is not None:
            raise UsageError(f"the face detector haar brings its own model; leave out {model}")
        return _Haar()
    kind = "face_detection_yunet_2023mar.onnx" if name == "yunet" else "blaze_face_short_range.tflite"
    if model is None:
        raise UsageError(f"the face detector {name} needs a model file, such as {kind}; or use haar, which needs none")
    return _YuNet(model) if name == "yunet" else _BlazeFace(model)


class _Pool:
    """Library objects that only one thread may use at a time: as many as threads ever needed one at once."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._idle = [make()]  # at once, so that what is wrong with a model shows before any work begins

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Any]:
        try:
            instance = self._idle.pop()
        except IndexError:
            instance = self._make()
        try:
            yield instance
        finally:
            self._idle.append(instance)


class _Haar:
    """Viola and Jones's cascades as OpenCV 4 ships them: frontal faces, and in each its two eyes."""

    # Of the three general frontal cascades, `alt` takes the fewest things for faces that are none: 4 % of FER-2013's
    # pictures turned upside down, against 10 % (alt2) and 23 % (default). It finds as many true faces.
    _CASCADES = ("haarcascade_frontalface_alt.xml", "haarcascade_eye.xml")
    _STEP, _NEIGHBOURS = 1.1, 3  # from one window size to the next; windows that must agree: OpenCV's defaults
    # Windows that agree on a face, at which the score is 0.5: false finds have up to 10 of them, true ones mostly 20.
    # They count twice in a face with eyes, which few false ones have.
    _HALF_SURE = 10
    # The picture is searched with its longer side at most, its shorter side at least these many pixels.
    _LONGEST, _SHORTEST = 640, 96
    # Nothing smaller is searched for: the cascade's own window, a sixteenth of the longer side (smaller windows take
    # most of the time and find mostly false faces), and what shows no expression.
    _WINDOW, _SMALLEST_PART, _SMALLEST_PIXELS = 20, 1 / 16, 16
    # From its box to BlazeFace's, for which the paper's margins were made: the corner's x and y, and the side, in parts
    # of the side. From the medians over faces of FER-2013 and over drawn ones (BlazeFace full range).
    _BOX = (0.03, 0.09, 0.93)

    def __init__(self) -> None:
        self._cv2 = _opencv()
        folder = self._cv2.data.haarcascades if hasattr(self._cv2, "data") else ""  # Debian's OpenCV has none
        paths = [os.path.join(folder, name) for name in self._CASCADES]
        if not hasattr(self._cv2, "CascadeClassifier") or not all(map(os.path.isfile, paths)):
            version = self._cv2.__version__
            raise DataError(f"this OpenCV {version} has no Haar cascades, OpenCV 4 has; run: {install('faces')}")
        self._pool = _Pool(lambda: tuple(map(self._cv2.CascadeClassifier, paths)))

    def detect(self, rgb: np.ndarray) -> list[Face]:
        cv2 = self._cv2
        height, width = rgb.shape[:2]
        grey, scale = _fit(cv2, cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), self._SHORTEST, self._LONGEST)
        longest = max(grey.shape)
        smallest = round(max(self._WINDOW, longest * self._SMALLEST_PART, self._SMALLEST_PIXELS * min(scale)))
        grey, border = _with_border(grey)
        faces = []
        with self._pool.borrow() as (face_cascade, eye_cascade):
            boxes, counts = face_cascade.detectMultiScale2(
                grey, scaleFactor=self._STEP, minNeighbors=self._NEIGHBOURS, minSize=(smallest, smallest)
            )
            for (x, y, side, _), count in zip(boxes, counts, strict=True):
                eyes = self._eyes(eye_cascade, grey, int(x), int(y), int(side))
                right, down, part = self._BOX
                box = (x + right * side, y + down * side, part * side, part * side)
                windows = float(count) * (2 if eyes else 1)
                faces.append(_back(Face(box, windows / (windows + self._HALF_SURE), eyes), border, scale))
        return _sorted(faces, width, height)

    # In a face, its side brought to these many pixels, an eye is looked for in each half (the halves overlap), between
    # these heights; its window is at least and at most these parts of the side.
    _EYE_SIDE, _EYE_HALVES, _EYE_HEIGHTS, _EYE_WINDOWS = 144, ((0.0, 0.55), (0.45, 1.0)), (0.15, 0.6), (0.13, 0.4)
    # A true pair is this far apart, in parts of the side (mostly 0.36), and no more oblique than 22 degrees.
    _EYE_DISTANCES, _EYE_SLOPE = (0.25, 0.5), 0.4

    def _eyes(self, cascade: Any, grey: np.ndarray, x: int, y: int, side: int) -> tuple[Point, Point] | None:
        """The eyes in the square at (x, y) of `grey`; None unless each half has one and the two can be a pair.

        Only the surest of each half counts: the others would give more pairs, but among them the first wrong ones, and
        a face aligned by a wrong pair is worse than one that is not aligned.
        """
        whole = self._EYE_SIDE
        top, bottom = (round(height * whole) for height in self._EYE_HEIGHTS)
        smallest, largest = (round(window * whole) for window in self._EYE_WINDOWS)
        face = _resize(self._cv2, grey[y : y + side, x : x + side], whole, whole)
        eyes = []
        for begin, end in self._EYE_HALVES:
            first = round(begin * whole)
            half = np.ascontiguousarray(face[top:bottom, first : round(end * whole)])
            boxes, counts = cascade.detectMultiScale2(
                half, scaleFactor=1.05, minNeighbors=2, minSize=(smallest, smallest), maxSize=(largest, largest)
            )
            if not len(boxes):
                return None
            left, up, size, _ = (float(value) for value in boxes[int(np.argmax(counts))])
            eyes.append(((first + left + size / 2) / whole, (top + up + size / 2) / whole))
        across, down = eyes[1][0] - eyes[0][0], eyes[1][1] - eyes[0][1]
        near, far = self._EYE_DISTANCES
        if not near < math.hypot(across, down) < far or abs(down) > self._EYE_SLOPE * across:
            return None
        return (x + eyes[0][0] * side, y + eyes[0][1] * side), (x + eyes[1][0] * side, y + eyes[1][1] * side)


class _WithModel(abc.ABC):
    """What runs a user's model, whose library may fail on any picture."""

    def __init__(self, path: str) -> None:
        """Reads the model's file. Raises DataError if it is missing, unreadable, no file, or too large."""
        self._path = path
        where = Path(path).expanduser()
        try:
            if not stat.S_ISREG(where.stat().st_mode):
                raise DataError(f"{path}: neither a file nor a link to one; give the model file")
            with where.open("rb") as stream:
                self._model = stream.read(MAX_MODEL_BYTES + 1)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({reason(error, named=path)}); give the model file") from None
        if len(self._model) > MAX_MODEL_BYTES:
            raise DataError(f"{path}: larger than {MAX_MODEL_BYTES >> 20} MiB, so no face detector's model")

    @contextlib.contextmanager
    def _in_one_line(self, what: str) -> Iterator[None]:
        """Turns whatever the library raises over the model into one line."""
        try:
            yield
        except Exception as error:  # OpenCV and MediaPipe have no common type, and MediaPipe has several
            raise DataError(f"{self._path}: {what} ({reason(error, 200)})") from error

    @abc.abstractmethod
    def _find(self, rgb: np.ndarray) -> list[Face]:
        """The faces in a picture, in any order."""

    def detect(self, rgb: np.ndarray) -> list[Face]:
        """Searches the picture as it is, and where there is nothing, inside a border."""
        height, width = rgb.shape[:2]
        with self._in_one_line(f"failed on a picture of {width}x{height} pixels"):
            faces = self._find(rgb)
            if not faces:
                larger, border = _with_border(rgb)
                faces = [_back(face, border, (1.0, 1.0)) for face in self._find(larger)]
            return _sorted(faces, width, height)


class _YuNet(_WithModel):
    """OpenCV's FaceDetectorYN with a YuNet model of 2023 or later (Wu, Peng and Yu 2023)."""

    # It was trained on faces of 10 to 300 pixels: from 3 to 94 % of a square of 320. A picture whose shorter side has
    # fewer than 96 is enlarged.
    _SIDE, _SHORTEST = 320, 96
    # OpenCV's own 0.9 is for cameras, where the next frame may be clearer; here a face that is missed is lost.
    _SCORE = 0.6
    # The outputs that OpenCV reads, and how many numbers it takes from each for a cell of 8, 16 or 32 pixels.
    _NUMBERS: ClassVar[dict[str, int]] = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}

    def __init__(self, path: str) -> None:
        super().__init__(path)
        outputs = {f"{kind}_{cell}": (cell, number) for kind, number in self._NUMBERS.items() for cell in (8, 16, 32)}
        if not all(name.encode() in self._model for name in outputs):
            raise DataError(f"{path}: no YuNet model of 2023 or later (.onnx): it has no outputs cls_8, obj_8, ...")
        self._cv2 = cv2 = _opencv()
        model, nothing, size = np.frombuffer(self._model, np.uint8), np.empty(0, np.uint8), (self._SIDE, self._SIDE)
        with self._in_one_line("no YuNet model that this OpenCV reads"):
            # OpenCV would read beyond the end of an output that is too short. As the input always has this one size, to
            # check once is enough.
            net = cv2.dnn.readNetFromONNX(model)
            net.setInput(cv2.dnn.blobFromImage(np.zeros((*size, 3), np.uint8)))
            for (name, (cell, number)), output in zip(outputs.items(), net.forward(list(outputs)), strict=True):
                expected = (self._SIDE // cell) ** 2 * number
                if output.size != expected:
                    raise ValueError(f"output {name} has {output.size} numbers, expected {expected}")
            self._pool = _Pool(lambda: cv2.FaceDetectorYN.create("onnx", model, nothing, size, self._SCORE))

    def _find(self, rgb: np.ndarray) -> list[Face]:
        picture, scale = _fit(self._cv2, rgb, self._SHORTEST, self._SIDE)
        bgr = np.zeros((self._SIDE, self._SIDE, 3), np.uint8)
        bgr[: picture.shape[0], : picture.shape[1]] = picture[..., ::-1]
        with self._pool.borrow() as library:
            _, rows = library.detect(bgr)
        faces = []
        for row in () if rows is None else rows.astype(float):  # box, right eye, left eye, six more numbers, score
            x, y, width, height, right_x, right_y, left_x, left_y = row[:8]
            eyes = ((right_x, right_y), (left_x, left_y))
            faces.append(_back(Face((x, y, width, height), float(row[14]), eyes), 0, scale))
        return faces


class _BlazeFace(_WithModel):
    """MediaPipe's FaceDetector with one of its BlazeFace models (Bazarevsky et al. 2019)."""

    _SCORE = 0.5  # the paper's

    def __init__(self, path: str) -> None:
        super().__init__(path)
        if self._model[4:8] != b"TFL3" and not self._model.startswith(b"PK\x03\x04"):
            raise DataError(f"{path}: no TensorFlow Lite model (.tflite) and no MediaPipe bundle (.task)")
        self._mediapipe = _import("mediapipe", "blazeface")
        tasks = self._mediapipe.tasks

        def make() -> Any:
            options = tasks.vision.FaceDetectorOptions(
                base_options=tasks.BaseOptions(model_asset_buffer=self._model), min_detection_confidence=self._SCORE
            )
            return tasks.vision.FaceDetector.create_from_options(options)

        with self._in_one_line("no model for MediaPipe's FaceDetector"):
            self._pool = _Pool(make)
            self._find(np.zeros((128, 128, 3), np.uint8))

    def _find(self, rgb: np.ndarray) -> list[Face]:
        height, width = rgb.shape[:2]
        image_format = self._mediapipe.ImageFormat.SRGB
        image = self._mediapipe.Image(image_format=image_format, data=np.ascontiguousarray(rgb))
        with self._pool.borrow() as library:
            detections = library.detect(image).detections
        faces = []
        for found in detections:
            box = found.bounding_box
            # The first two points are the eyes, as parts of the picture's size; its documents differ on which is which,
            # so the one further left in the picture is taken for the person's right one.
            points = sorted((point.x * width, point.y * height) for point in (found.keypoints or ())[:2])
            eyes = (points[0], points[1]) if len(points) == 2 else None
            place = (float(box.origin_x), float(box.origin_y), float(box.width), float(box.height))
            faces.append(Face(place, float(found.categories[0].score), eyes))
        return faces


def _import(module: str, extra: str) -> Any:
    """An optional library. Raises DataError with the command that installs it."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        missing = isinstance(error, ModuleNotFoundError)
        why = "is not installed" if missing else f"cannot be loaded ({reason(error, 200)})"
        raise DataError(f"{module} {why}; run: {install(extra)}") from error


def _opencv() -> Any:
    """OpenCV, set up for many callers."""
    cv2 = _import("cv2", "faces")
    # The callers run one picture a thread; and threads of its own would bring its results in changing order.
    cv2.setNumThreads(1)
    # What it would print is in its exceptions as well.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def _with_border(picture: np.ndarray) -> tuple[np.ndarray, int]:
    """The picture inside a border of its repeated edge pixels, and the border's width."""
    border = round(BORDER * min(picture.shape[:2]))
    widths = ((border, border), (border, border), (0, 0))[: picture.ndim]
    return np.pad(picture, widths, mode="edge"), border


def _fit(cv2: Any, picture: np.ndarray, shortest: int, longest: int) -> tuple[np.ndarray, Point]:
    """The picture with its shorter side at least and its longer side at most so many pixels (the latter goes first).

    Also returns by how much it grew, across and down.
    """
    height, width = picture.shape[:2]
    scale = min(max(1.0, shortest / min(height, width)), longest / max(height, width))
    if scale == 1.0:
        return picture, (1.0, 1.0)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return _resize(cv2, picture, *size), (size[0] / width, size[1] / height)


def _resize(cv2: Any, picture: np.ndarray, width: int, height: int) -> np.ndarray:
    shrinks = width < picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _back(face: Face, border: int, scale: Point) -> Face:
    """A face found in a picture that was grown by `scale`, then put inside a border: where it is in the original."""
    across, down = scale

    def point(x: float, y: float) -> Point:
        return (float(x) - border) / across, (float(y) - border) / down

    x, y, width, height = face.box
    eyes = face.eyes and (point(*face.eyes[0]), point(*face.eyes[1]))
    return Face((*point(x, y), float(width) / across, float(height) / down), face.score, eyes)


def _sorted(faces: Iterable[Face], width: int, height: int) -> list[Face]:
    """The surest first, without what lies outside the picture or is no number (a user's model may give anything)."""

    def usable(face: Face) -> bool:
        x, y, across, down = face.box
        numbers = [*face.box, face.score, *(value for eye in face.eyes or () for value in eye)]
        overlaps = across > 0 and down > 0 and -across < x < width and -down < y < height
        return overlaps and all(map(math.isfinite, numbers))

    return sorted(filter(usable, faces), key=lambda face: (-face.score, -face.box[2] * face.box[3], face.box))
