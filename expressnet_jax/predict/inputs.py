"""Pictures to be answered: from files, folders, patterns, videos and webcams, arrays and PIL images; one by one.

Only the list of names is held in memory as a whole. `Input.read`, called from any thread, reads and decodes a picture
and turns it upright; what cannot be read raises BadPicture, which says why in a few words and ends nothing else.

Legend: H W height and width, S side of the network's picture, C channel.
"""

import contextlib
import functools
import importlib
import io
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from data_pipelines import pictures
from data_pipelines.common.files import walk
from data_pipelines.common.text import install, one_line, reason
from data_pipelines.faces import detectors
from data_pipelines.pictures import BadPicture
from data_pipelines.sources import MAX_MEMBER_BYTES

#: Files of these kinds are taken for videos, all others for pictures.
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv", ".3gp")

_CAMERA = re.compile(r"camera:(\d{1,3})")
_PATTERN = re.compile(r"[*?[]")
_LITTER = ("Thumbs.db", "desktop.ini")

#: Pictures of more pixels than this are decoded one at a time: 64 million in each of many threads fill the memory.
_LARGE = 16_000_000
_one_large = threading.Lock()


class Decoded(NamedTuple):
    """A picture, upright."""

    rgb: np.ndarray  # (H, W, 3) uint8; may be smaller than the original where `within` allowed it
    size: tuple[int, int]  # width and height of the original, upright, in pixels
    note: str  # what a user should know of it, or ""


@dataclass(frozen=True)
class Input:
    """A picture to come."""

    path: str  # as it is called in results; "" for an array
    name: str  # relative, with forward slashes: what a drawn copy of it is called
    read: Callable[[int], Decoded]  # from `within` of pictures.decode; raises BadPicture
    time: float | None = None  # of a video's frame, in seconds from the start
    live: bool = False  # a camera's: to be answered at once
    held: int = 0  # bytes that this object itself keeps in memory


class Found(NamedTuple):
    """A file or a camera; or, with an `error`, why an argument means neither."""

    path: str
    name: str
    error: str = ""

    @property
    def camera(self) -> bool:
        """Whether it ends only when its user ends it."""
        return not self.error and is_camera(self.path)

    @property
    def frames(self) -> bool:
        """Whether there are any number of pictures in it."""
        return self.camera or (not self.error and self.path.lower().endswith(VIDEOS))


def is_camera(path: str) -> bool:
    """Whether an argument means a webcam: "camera:0" is the first."""
    return _CAMERA.fullmatch(path) is not None


def find(path: str | os.PathLike[str]) -> Iterator[Found]:
    """The files that one argument means: a file, a folder with all in it, a pattern such as "photos/**/*.jpg" (quoted,
    or the shell expands it), or "camera:0".

    In folders, links to files are followed, links to folders are not. What does not exist is one Found with an `error`.
    """
    text = os.fspath(path)
    if is_camera(text):
        yield Found(text, text.replace(":", ""))
        return
    where = Path(text).expanduser()
    try:
        mode = os.stat(where if text else "").st_mode
    except ValueError:  # a null byte
        yield Found(text, "", "no path that a file can have")
    except FileNotFoundError:
        if _PATTERN.search(text) and not os.path.lexists(where):
            yield from _matches(where)
        else:
            yield Found(text, where.name, "there is no such file or folder")
    except OSError as error:
        yield Found(text, where.name, f"cannot be read ({error.strerror})")
    else:
        yield from _in_folder(where) if stat.S_ISDIR(mode) else [Found(text, where.name)]


def _in_folder(folder: Path, below: str = "") -> Iterator[Found]:
    """All files but hidden ones, folder by folder; a folder that cannot be listed is one Found with an `error`."""
    failed: list[OSError] = []
    empty = True
    for where, subfolders, files in walk(folder, onerror=failed.append):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        inside = PurePosixPath(below, Path(where).relative_to(folder))
        for name in sorted(files):
            if not name.startswith(".") and name not in _LITTER:
                empty = False
                yield Found(os.path.join(where, name), str(inside / name))
    for error in failed:
        yield Found(os.fspath(error.filename), below, f"cannot be read ({error.strerror})")
    if empty and not failed:
        yield Found(str(folder), below, "no file in this folder")


def _matches(pattern: Path) -> Iterator[Found]:
    base = root_of(pattern)
    try:  # Path.glob does not follow links to folders in **, glob.glob does
        matches = sorted(base.glob(str(pattern.relative_to(base))))
    except (ValueError, NotImplementedError, OSError) as error:
        yield Found(str(pattern), "", f"no usable pattern ({one_line(error)})")
        return
    if not matches:
        yield Found(str(pattern), "", "no file matches this pattern")
    for match in matches:
        name = match.relative_to(base).as_posix()
        if not match.is_dir():
            yield Found(str(match), name)
        elif pattern.name != "**" and "**" not in pattern.parts:  # ** has matched the folder's files already
            yield from _in_folder(match, name)


def root_of(path: Path) -> Path:
    """The folder that `find` looks in: a pattern's part before its first wildcard, a folder itself, or a file's."""
    if path.is_dir():
        return path
    parts = path.parts[:-1]
    wild = [i for i, part in enumerate(parts) if _PATTERN.search(part)]
    return Path(*parts[: wild[0] if wild and not path.exists() else len(parts)])


def open_found(found: Iterable[Found], every: int = 1) -> Iterator[Input]:
    """The pictures of what `find` found; of videos and cameras one frame of `every`."""
    for one in found:
        if one.error:
            yield _failed(one)
        elif one.frames:
            try:
                yield from _frames(one, every)
            except BadPicture as error:
                yield _failed(one._replace(error=str(error)))
        else:
            yield Input(one.path, one.name, functools.partial(read_file, one.path))


def _failed(one: Found) -> Input:
    def read(_: int) -> Decoded:
        raise BadPicture(one.error)

    return Input(one.path, one.name, read)


def read_file(path: str, within: int = 0) -> Decoded:
    """The picture in a file. Raises BadPicture, also where the file has gone."""
    try:
        # Without O_NONBLOCK, opening a pipe without a writer would wait for ever.
        with open(os.open(os.path.expanduser(path), os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadPicture("neither a file nor a folder")
            data = file.read(min(status.st_size, MAX_MEMBER_BYTES) + 1)
    except FileNotFoundError:
        raise BadPicture("there is no such file (any more)") from None
    except OSError as error:
        raise BadPicture(f"cannot be read ({reason(error, named=error.filename)})") from None
    return decode(data, within)


def decode(data: bytes, within: int = 0) -> Decoded:
    """The picture in some bytes, as `pictures.decode` takes it. Raises BadPicture."""
    size, note = (0, 0), ""
    with contextlib.suppress(Exception):  # `decode` says in better words what is wrong with the picture
        size, note = _about(data)
    with _one_large if size[0] * size[1] > _LARGE else contextlib.nullcontext():
        image = pictures.decode(data, within)
        return Decoded(np.asarray(image.convert("RGB")), size if all(size) else image.size, note)


def _about(data: bytes) -> tuple[tuple[int, int], str]:
    """Upright size, and a note where there is more than one picture; from the header alone."""
    with Image.open(io.BytesIO(data)) as opened:
        width, height = opened.size
        if opened.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8):  # on its side
            width, height = height, width
        several = opened.format in ("PNG", "WEBP") and getattr(opened, "n_frames", 1) > 1
        if opened.format == "TIFF":  # to count them all could take for ever
            with contextlib.suppress(EOFError):
                opened.seek(1)
                several = True
    return (width, height), "several pictures in one file; the first one is taken" if several else ""


@dataclass(frozen=True)
class Preparation:
    """From an upright picture to what the network is given: as `expressnet data prepare` did with training pictures."""

    size: int  # S
    antialias: bool
    stored: tuple[int, int, int] | None  # height, width, channels of the stored training pictures; None: not known
    detector: detectors.Detector | None = None
    align: bool = False
    side: int = 0  # of a cut-out face

    @property
    def within(self) -> int:
        """How far a JPEG may be made smaller while it is decoded; see pictures.decode."""
        if self.detector:
            return pictures.MAX_SIDE_FOR_FACES
        return max(self.stored[:2]) if self.stored else pictures.MAX_SIDE

    def fit(self, rgb: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> the picture that goes to the device, always of one size.

        Where the size of the stored training pictures is known, it is brought to that by Pillow, smoothed where it
        shrinks, as data preparation does; the step to the network's size is the device's. Else it is resized to (S, S)
        float32, unrounded, as the device would do it, whose program would be compiled anew for every size.
        """
        if rgb.shape[:2] == (self.size, self.size) and not self.stored:
            return rgb
        image = Image.fromarray(rgb)
        height, width, channels = self.stored or (*pictures.bounded(image.size)[::-1], 3)  # larger ones are not stored
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        if channels == 1:  # the network has never seen colours
            image = image.convert("L").convert("RGB")
        fitting = np.asarray(image)
        return fitting if self.stored else resized(fitting, self.size, antialias=self.antialias)


def resized(image: np.ndarray, size: int, *, antialias: bool) -> np.ndarray:
    """(H, W, C) -> (size, size, C) float32: `models.preprocess.resize` on the host, for one picture."""
    height, width, channels = image.shape
    rows = _weights(height, size, antialias) @ image.reshape(height, width * channels).astype(np.float32)
    columns = rows.reshape(size, width, channels).transpose(1, 0, 2).reshape(width, size * channels)
    across = _weights(width, size, antialias) @ columns
    return np.ascontiguousarray(across.reshape(size, size, channels).transpose(1, 0, 2))


@functools.lru_cache(maxsize=64)
def _weights(length: int, size: int, antialias: bool) -> np.ndarray:
    """(size, length) float32: how much of each pixel of a row goes into each of `size`. Bilinear, half-pixel centres:
    a triangle as wide as a pixel, with `antialias` as wide as one of the result where that is wider."""
    step = np.float32(length) / np.float32(size)
    centres = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * step - np.float32(0.5)
    distance = np.abs(centres[:, None] - np.arange(length, dtype=np.float32))
    triangle = np.maximum(0, 1 - distance / (max(step, np.float32(1)) if antialias else 1))
    return (triangle / triangle.sum(1, keepdims=True)).astype(np.float32)


def of_image(image: Any) -> Input:
    """A NumPy array (H, W), (H, W, 1), (H, W, 3) in RGB or (H, W, 4) in RGBA, or a PIL image, as it is now.

    An array is uint8, or uint16, of which 65,535 is white. Of RGBA the alpha channel is dropped, as of files and PIL
    images with one. Raises TypeError for anything else.
    """
    if isinstance(image, Image.Image):
        try:
            pictures.check(image)
            rgb = np.array(pictures.grey_or_rgb(ImageOps.exif_transpose(image)).convert("RGB"))
        except BadPicture as error:
            return _failed(Found("", "", str(error)))
        except Exception as error:  # for damaged files Pillow raises nearly every type there is
            return _failed(Found("", "", f"cannot be decoded ({reason(error)})"))
    elif isinstance(image, np.ndarray):
        channels = image.shape[2] if image.ndim == 3 else 1
        if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or channels not in (1, 3, 4):
            forms = "uint8 or uint16 (H, W), (H, W, 1), RGB (H, W, 3) or RGBA (H, W, 4)"
            raise TypeError(f"an array of {image.dtype} {image.shape} is no picture; give {forms}")
        image = pictures.eight_bits(image) if image.dtype == np.uint16 else image
        grey = image[..., None] if image.ndim == 2 else image[..., :3]
        rgb = np.array(np.broadcast_to(grey, (*grey.shape[:2], 3)))  # a copy: the caller may use the memory again
    else:
        raise TypeError(f"{type(image).__name__} is no picture; give a path, a NumPy array or a PIL image")
    return _of_array(Found("", ""), rgb)


def _of_array(one: Found, rgb: np.ndarray, time: float | None = None, live: bool = False) -> Input:
    height, width = rgb.shape[:2]

    def read(_: int) -> Decoded:
        if not height * width:
            raise BadPicture(f"{width}x{height} pixels")
        pictures.check_size(width, height)
        return Decoded(rgb, (width, height), "")

    return Input(one.path, one.name, read, time, live, rgb.nbytes)


def _frames(one: Found, every: int) -> Iterator[Input]:
    """One frame of `every` of a video or a camera, upright, with its time. Raises BadPicture where there is none."""
    camera = _CAMERA.fullmatch(one.path)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what it would print is in our own messages
    try:
        cv2 = importlib.import_module("cv2")
    except (ImportError, OSError):
        raise BadPicture(f"videos and cameras need OpenCV; run: {install('faces')}") from None
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    # An absolute path is never taken for an address or for a list of numbered files.
    capture = cv2.VideoCapture(int(camera[1]) if camera else str(Path(one.path).expanduser().absolute()))
    try:
        if not capture.isOpened():
            what = "such camera, or no permission to use it" if camera else "video that OpenCV can read"
            raise BadPicture(f"no {what}")
        pictures.check_size(capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        number = given = 0
        while capture.grab():
            if number % every == 0:
                time = max(capture.get(cv2.CAP_PROP_POS_MSEC), 0.0) / 1000
                decoded, bgr = capture.retrieve()
                if decoded:
                    frame = one._replace(name=f"{one.name}/{number:06}.jpg")
                    yield _of_array(frame, np.ascontiguousarray(bgr[..., ::-1]), round(time, 3), camera is not None)
                    given += 1
            number += 1
        if not given:
            raise BadPicture("not one frame of it can be decoded")
    finally:
        capture.release()
