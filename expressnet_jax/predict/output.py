"""What `expressnet predict` leaves: lines on the screen, JSON, CSV, annotated pictures; all while it runs."""

from __future__ import annotations

import collections
import contextlib
import csv
import itertools
import math
import os
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from tqdm import tqdm

from data_pipelines.common.text import json_line
from data_pipelines.pictures import BadPicture
from expressnet_jax.predict import inputs as predict_inputs
from expressnet_jax.predict.inputs import Found, Input
from expressnet_jax.predict.recognizer import Model, Pictured, PredictError

#: Colour of boxes and of the labels' ground, RGB.
COLOUR = (255, 196, 0)

#: Smaller pictures are drawn enlarged by a whole number, their longer side to so many pixels: a label needs them.
_LEGIBLE = 192

#: Written into drawn pictures, so that a later run knows that it may replace them.
_MARK = "drawn by expressnet predict"

#: A cell that begins with one of these is a formula to spreadsheets (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

_PATH_WIDTH = 44


def run(
    model: Model, paths: Sequence[str], *, json: TextIO | None = None, csv_file: Path | None = None,
    draw: Path | None = None, every: int = 1,
) -> int:  # fmt: skip
    """Answers all pictures of `paths`; lines for people go to standard error.

    Args:
        model: made by `predict.load`.
        paths: files, folders, patterns, videos, "camera:0"; see predict_inputs.find.
        json: where a list of {path, faces [{box, label, probabilities}]} or {path, error} goes, picture by picture.
        csv_file: a new table with a row for each face and for each picture without one; complete, or not there.
        draw: a folder for copies with boxes and labels; never that of the inputs.
        every: of videos and cameras, one frame of so many is answered.

    Returns:
        The exit code: 0 where anything was answered, 1 where nothing was.

    Raises:
        PredictError: something that cannot be, before anything is read.
    """
    if every < 1:
        raise PredictError(f"--every {every}: give 1 or more")
    found = [one for path in paths for one in predict_inputs.find(path)]
    if csv_file is not None and csv_file.exists():
        _check_csv(csv_file, found)
    if draw is not None:
        _check_draw(draw, paths)
    summary = _Summary()
    with contextlib.ExitStack() as stack:
        total = None if any(one.frames for one in found) else len(found)
        bar = stack.enter_context(tqdm(total=total, unit=" pictures", leave=False, disable=None))
        sinks: list[Any] = [summary]
        if json is not None:
            sinks.append(stack.enter_context(_Json(json)))
        if csv_file is not None:
            sinks.append(stack.enter_context(_Csv(csv_file, model.classes)))
        if json is None and csv_file is None:
            sinks.append(_Lines(found))
        if draw is not None:
            sinks.append(stack.enter_context(_Drawer(draw)))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module=r"PIL\.")  # what is wrong with a picture is in its result
        try:
            for source, result in model.answers(predict_inputs.open_found(found, every)):
                for sink in sinks:
                    sink.add(source, result)
                bar.update()
        except KeyboardInterrupt:
            if not any(one.camera for one in found):  # which has no other end
                raise
    _say(summary.text())
    return 0 if summary.faces else 1


def as_json(result: Pictured) -> dict[str, Any]:
    """One picture's part of the JSON document; probabilities are rounded to 7 digits."""
    about: dict[str, Any] = {"path": result.path}
    about |= {} if result.time is None else {"time": result.time}
    if result.error:
        return {**about, "error": result.error}
    faces = [
        {
            "box": face.box,
            "score": face.score,
            "label": face.label,
            "probabilities": {name: round(p, 7) for name, p in face.probabilities.items()},
            "experts": face.experts,
        }
        for face in result.faces
    ]
    return {**about, "faces": faces, **({"note": result.note} if result.note else {})}


def _check_csv(csv_file: Path, found: Iterable[Found]) -> None:
    for one in found:
        if not one.error and not one.camera and os.path.exists(one.path) and os.path.samefile(one.path, csv_file):
            raise PredictError(f"--csv {csv_file} is one of the pictures; choose another file")


def _check_draw(draw: Path, paths: Iterable[str]) -> None:
    target = draw.resolve()
    for text in paths:
        path = Path(text).expanduser()
        root = predict_inputs.root_of(path).resolve()
        if target == root or (path.is_dir() and root in target.parents):
            raise PredictError(f"--draw {draw} lies where the pictures of {text} are; choose a folder of its own")


class _Summary:
    """Counts, for the last line."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._pictures = self._failed = self.faces = 0
        self._labels: collections.Counter[str] = collections.Counter()

    def add(self, _: Input, result: Pictured) -> None:
        self._pictures += 1
        self._failed += bool(result.error)
        self.faces += len(result.faces)
        self._labels.update(face.label for face in result.faces)

    def text(self) -> str:
        rate = self._pictures / max(time.perf_counter() - self._began, 1e-9)
        failed = f", {self._failed:,} without an answer" if self._failed else ""
        labels = ", ".join(f"{_shown(label)} {count:,}" for label, count in self._labels.most_common())
        return f"{self._pictures:,} pictures{failed}; {self.faces:,} faces{': ' * bool(labels)}{labels}; {rate:,.0f}/s"


class _Lines:
    """A line for each face on the screen."""

    def __init__(self, found: Iterable[Found]) -> None:
        self._width = min(_PATH_WIDTH, max((len(_shown(one.path)) for one in found), default=0))

    def add(self, _: Input, result: Pictured) -> None:
        path = _shown(result.path)
        path = path if len(path) <= self._width else "\N{HORIZONTAL ELLIPSIS}" + path[len(path) - self._width + 1 :]
        start = path.ljust(self._width) + ("" if result.time is None else f" {result.time:9.2f} s")
        if result.error:
            _say(f"{start}  no answer: {_shown(result.error)}")
        note = f"  ({result.note})" if result.note else ""
        for face in result.faces:
            box = "{},{} {}x{}".format(*face.box).ljust(20) if face.box else ""
            best = sorted(face.probabilities.items(), key=lambda item: -item[1])[:3]
            _say(f"{start}  {box}{'   '.join(f'{_shown(label)} {p:.2f}' for label, p in best)}{note}")


class _Json:
    """A JSON list that grows; closed even where the run ends early, so that what there is can be read."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._separator = stream, "[\n"

    def __enter__(self) -> _Json:
        return self

    def add(self, _: Input, result: Pictured) -> None:
        self._stream.write(self._separator + json_line(as_json(result)).rstrip("\n"))
        self._stream.flush()
        self._separator = ",\n"

    def __exit__(self, *_: object) -> None:
        self._stream.write("[]\n" if self._separator == "[\n" else "\n]\n")
        self._stream.flush()


class _Csv:
    """A table of fixed columns: a row for each face, and one for each picture without."""

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self._path, self._classes = path, classes
        self._part = path.with_name(path.name + ".part")

    def __enter__(self) -> _Csv:
        # Names of files that are no text come out as they went in.
        self._file = self._part.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._writer = csv.writer(self._file)
        each = (f"probability_{name}" for name in self._classes)
        columns = ("path", "time", "face", "left", "top", "width", "height", "score", "label", "probability")
        self._writer.writerow([*columns, *each, "experts_cnn", "experts_expression", "note", "error"])
        return self

    def add(self, _: Input, result: Pictured) -> None:
        start = [_cell(result.path), "" if result.time is None else result.time]
        if result.error:
            empty = 10 + len(self._classes)
            self._writer.writerow([*start, *[""] * empty, "", _cell(result.error)])
        for number, face in enumerate(result.faces):
            probabilities = [f"{face.probabilities[name]:.7f}" for name in self._classes]
            row = [number, *(face.box or [""] * 4), "" if face.score is None else face.score]
            row += [_cell(face.label), f"{face.probabilities[face.label]:.7f}", *probabilities]
            row += [" ".join(map(str, face.experts.get(layer, ()))) for layer in ("moe_cnn", "moe_expression")]
            self._writer.writerow([*start, *row, _cell(result.note), ""])

    def __exit__(self, kind: object, *_: object) -> None:
        self._file.close()
        if kind is None:
            os.replace(self._part, self._path)
        else:
            self._part.unlink(missing_ok=True)


def _cell(text: str) -> str:
    """A quote before what a spreadsheet would take for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


class _Drawer:
    """Annotated copies, in threads: JPEG where the picture's name ends so, else PNG."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[str] = set()
        self._threads = min(8, os.cpu_count() or 1)
        self._futures: collections.deque[Future[str]] = collections.deque()

    def __enter__(self) -> _Drawer:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="drawing")
        return self

    def add(self, source: Input, result: Pictured) -> None:
        if result.faces:
            target = self._folder / self._unique(source.name)
            self._futures.append(self._pool.submit(_draw_copy, source, result, target))
            self._collect(2 * self._threads)

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._collect(0)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _collect(self, leave: int) -> None:
        while len(self._futures) > leave:
            if why := self._futures.popleft().result():
                _say(_shown(why))

    def _unique(self, name: str) -> str:
        """The name, without steps upwards, ending in .jpg, .jpeg or .png, and not used before."""
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")] or ["picture"]
        *parents, last = parts
        stem, suffix = os.path.splitext(last)
        if suffix.lower() not in (".jpg", ".jpeg", ".png"):
            stem, suffix = last, ".png"
        for number in itertools.count(1):
            ending = suffix if number == 1 else f"-{number}{suffix}"
            kept = os.fsencode(stem)[: 255 - len(ending)].decode("utf-8", "ignore")  # bytes that a file's name may have
            made = "/".join([*parents, kept + ending])
            if made not in self._used:
                break
        self._used.add(made)
        return made


def _draw_copy(source: Input, result: Pictured, target: Path) -> str:
    """Writes a picture with its boxes and labels; returns why not. Raises OSError where the folder takes no files."""
    if os.path.lexists(target) and not _is_ours(target):
        return f"{target} is there and was not drawn by this program; left as it is"
    try:
        image = annotated(Image.fromarray(source.read(0).rgb), result)
    except BadPicture as error:
        return f"{target} not drawn: {error}"
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{os.getpid()}-{hash(target.name) & 0xFFFFFFFF:08x}.part")
    try:
        if target.suffix.lower() == ".png":
            info = PngImagePlugin.PngInfo()
            info.add_text("Comment", _MARK)
            image.save(part, "PNG", pnginfo=info)
        else:
            image.save(part, "JPEG", quality=92, subsampling=0, comment=_MARK)
        os.replace(part, target)  # a link is replaced too, and not what it leads to
    finally:
        part.unlink(missing_ok=True)
    return ""


def _is_ours(target: Path) -> bool:
    try:
        with Image.open(target, formats=("JPEG", "PNG")) as image:
            return _MARK in (image.info.get("Comment"), bytes(image.info.get("comment", b"")).decode("ascii", "ignore"))
    except Exception:  # no picture: certainly not ours
        return False


def annotated(image: Image.Image, result: Pictured) -> Image.Image:
    """A copy in RGB with each face's box, label and probability; of a whole picture, its label at the top."""
    factor = max(1, math.ceil(_LEGIBLE / max(image.size)))
    image = image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    drawing = ImageDraw.Draw(image)
    line = max(2, round(max(image.size) / 320))
    font = ImageFont.load_default(max(12, round(max(image.size) / 40)))
    for face in result.faces:
        left, top, width, height = (factor * n for n in face.box or (0, 0, image.width // factor, 0))
        if face.box:
            drawing.rectangle((left, top, left + width - 1, top + height - 1), outline=COLOUR, width=line)
        text = _fitting(f"{_shown(face.label)} {face.probabilities[face.label]:.2f}", image.width - 4, font)
        across, down = drawing.textbbox((0, 0), text, font)[2:]
        x = max(0, min(left, image.width - int(across) - 4))
        y = top - int(down) - 4 if top >= down + 4 else min(top + height, image.height - int(down) - 4)
        drawing.rectangle((x, y, x + across + 4, y + down + 3), fill=COLOUR)
        drawing.text((x + 2, y + 1), text, (0, 0, 0), font)
    return image


def _fitting(text: str, width: int, font: Any) -> str:
    text = text[: max(1, width // 2)]  # no letter is narrower
    while len(text) > 1 and font.getlength(text) > width:
        text = text[:-2] + "\N{HORIZONTAL ELLIPSIS}"
    return text


def _shown(text: str) -> str:
    """Text for a terminal: what is not printable (line ends, escape sequences, broken names) is spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
