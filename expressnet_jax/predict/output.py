"""What `expressnet predict` leaves: lines on the screen, JSON, CSV, annotated pictures; all while it runs."""

import collections
import contextlib
import csv
import fnmatch
import io
import itertools
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin

from data_pipelines.common.errors import DataError
from data_pipelines.common.files import replacing
from data_pipelines.common.tables import CsvWriter
from data_pipelines.common.text import LONG, Progress, counted, json_line, say, show, shown
from data_pipelines.common.threads import ordered
from data_pipelines.pictures import BadPicture
from expressnet_jax.predict import inputs as predict_inputs
from expressnet_jax.predict.inputs import Found, Input
from expressnet_jax.predict.recognizer import Model, Pictured, PredictError

#: Colour of boxes and of the labels' ground, RGB.
COLOUR = (255, 196, 0)

#: Smaller pictures are enlarged by a whole number until their longer side has at least so many pixels, for the labels.
_LEGIBLE = 192

#: Written into drawn pictures, so that a later run knows that it may replace them.
_MARK = "drawn by expressnet predict"

_PATH_WIDTH = 44

_Sink = Callable[[Pictured], Any]  # takes each result as it comes


def run(
    model: Model, paths: Sequence[str], *, json: io.TextIOBase | None = None, csv_file: Path | None = None,
    draw: Path | None = None, every: int = 1,
) -> int:  # fmt: skip
    """Answers all pictures of `paths`; lines for people go to standard output, where they are not left out for files.

    Args:
        model: made by `recognizer.load`.
        paths: files, folders, patterns, videos, "camera:0"; see predict/inputs.py's find.
        json: where a list of {path, faces [{box, label, probabilities}]} or {path, error} goes, picture by picture.
        csv_file: a new table with a row for each face and for each picture without one; complete, or not there.
        draw: a folder for copies with boxes and labels; never that of the inputs.
        every: of videos and cameras, one frame of every so many is answered.

    Returns:
        The exit code: 0 where anything was answered, 1 where nothing was.

    Raises:
        PredictError, DataError: something that cannot be, before anything is read.
    """
    if every < 1:
        raise PredictError(f"--every {every}: give 1 or more")
    found = [one for path in paths for one in predict_inputs.find(path)]
    if csv_file is not None and csv_file.exists():
        _check_csv(csv_file, found)
    if draw is not None:
        _check_draw(draw, paths)
    summary = _Summary()
    ends = [KeyboardInterrupt] if any(one.camera for one in found) else []  # a camera has no other end
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(Progress("answering", None if any(one.frames for one in found) else len(found)))
        sinks: list[_Sink] = [summary.add]
        if json is not None:
            sinks.append(stack.enter_context(_growing(json)))
        if csv_file is not None:
            sinks.append(stack.enter_context(_table(csv_file, model.classes)))
        if json is None and csv_file is None:
            width = min(_PATH_WIDTH, max((len(shown(one.path)) for one in found), default=0))
            sinks.append(lambda result: _show(result, width))
        sinks.append(lambda _: bar.update())
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module=r"PIL\.")  # what is wrong with a picture is in its result
        stack.enter_context(contextlib.suppress(*ends))

        answers = model.answers(predict_inputs.open_found(found, every))
        told = _told(answers, sinks, contextlib.suppress(*ends))
        if draw is not None:
            _draw(draw, told)
        collections.deque(told, maxlen=0)  # all that is left
    say(summary.text())
    return 0 if summary.labels else 1


def _told(
    answers: Iterable[tuple[Input, Pictured]], sinks: Sequence[_Sink], ends: contextlib.suppress
) -> Iterator[tuple[Input, Pictured]]:
    """The same answers, each after all sinks have taken it; they are over where `ends` takes an exception."""
    with ends:
        for source, result in answers:
            for sink in sinks:
                sink(result)
            yield source, result


def as_json(result: Pictured) -> dict[str, Any]:
    """One picture's part of the JSON document; probabilities are rounded to 7 digits."""
    about: dict[str, Any] = {"path": result.path}
    about |= {} if result.time is None else {"time": result.time}
    if result.error:
        return {**about, "error": result.error}
    faces = [
        {
            "box": face.box, "score": face.score, "label": face.label,
            "probabilities": {name: round(p, 7) for name, p in face.probabilities.items()}, "experts": face.experts,
        }
        for face in result.faces
    ]  # fmt: skip
    return {**about, "faces": faces, **({"note": result.note} if result.note else {})}


def _check_csv(csv_file: Path, found: Iterable[Found]) -> None:
    for one in found:
        if not one.error and not one.camera and os.path.exists(one.path) and os.path.samefile(one.path, csv_file):
            raise DataError(f"--csv {csv_file} is one of the pictures; choose another file")


def _check_draw(draw: Path, paths: Iterable[str]) -> None:
    target = draw.resolve()
    for text in paths:
        path = Path(text).expanduser()
        found = predict_inputs.root_of(path)
        root, below = found.resolve(), path.parts[len(found.parts) :]  # of a pattern, what is matched in that folder
        within = root in target.parents and (path.is_dir() or _reaches(below, target.relative_to(root).parts))
        if target == root or within:
            raise DataError(f"--draw {draw} is among the pictures of {text}; choose a folder of its own")


def _reaches(pattern: Sequence[str], folder: Sequence[str]) -> bool:
    """Whether a pattern can find what lies in a folder, both as their parts below the same one."""
    return "**" in pattern or (bool(pattern) and fnmatch.fnmatch(folder[0], pattern[0]))


class _Summary:
    """Counts, for the last line."""

    def __init__(self) -> None:
        self._began, self._pictures, self._failed = time.perf_counter(), 0, 0
        self.labels: collections.Counter[str] = collections.Counter()  # of all faces

    def add(self, result: Pictured) -> None:
        self._pictures += 1
        self._failed += bool(result.error)
        self.labels.update(face.label for face in result.faces)

    def text(self) -> str:
        rate = self._pictures / max(time.perf_counter() - self._began, 1e-9)
        failed = f", {self._failed:,} without an answer" if self._failed else ""
        labels = ", ".join(f"{shown(label)} {count:,}" for label, count in self.labels.most_common())
        found = f"{counted(self._pictures, 'picture')}{failed}; {counted(self.labels.total(), 'face')}"
        return f"{found}{': ' * bool(labels)}{labels}; {rate:,.0f}/s"


def _show(result: Pictured, width: int) -> None:
    """A line for each face on the screen; paths are given `width` letters."""
    path = shown(result.path)
    path = path if len(path) <= width else "\N{HORIZONTAL ELLIPSIS}" + path[len(path) - width + 1 :]
    start = path.ljust(width) + ("" if result.time is None else f" {result.time:9.2f} s")
    if result.error:
        show(f"{start}  no answer: {shown(result.error)}")
    note = f"  ({result.note})" if result.note else ""
    for face in result.faces:
        box = "{},{} {}x{}".format(*face.box).ljust(20) if face.box else ""
        best = sorted(face.probabilities.items(), key=lambda item: -item[1])[:3]
        show(f"{start}  {box}{'   '.join(f'{shown(label)} {p:.2f}' for label, p in best)}{note}")


@contextlib.contextmanager
def _growing(stream: io.TextIOBase) -> Iterator[_Sink]:
    """A JSON list that grows; closed even where the run ends early, so that what there is can be read."""
    separator = "[\n"

    def add(result: Pictured) -> None:
        nonlocal separator
        stream.write(separator + json_line(as_json(result)).rstrip("\n"))
        stream.flush()
        separator = ",\n"

    try:
        yield add
    finally:
        stream.write("[]\n" if separator == "[\n" else "\n]\n")
        stream.flush()


@contextlib.contextmanager
def _table(path: Path, classes: Sequence[str]) -> Iterator[_Sink]:
    """A CSV file of fixed columns that takes its place at the end: a row for each face, and for each picture without.

    Names of files that are not valid text are written byte for byte.
    """
    with replacing(path) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        table, each = CsvWriter(file, csv.QUOTE_MINIMAL), [f"probability_{name}" for name in classes]
        columns = ("path", "time", "face", "left", "top", "width", "height", "score", "label", "probability")
        table.rows([[*columns, *each, "experts_cnn", "experts_expression", "note", "error"]])

        def add(result: Pictured) -> None:
            start = [result.path, result.time]
            if result.error:
                table.rows([[*start, *[None] * (11 + len(classes)), result.error]])
            for number, face in enumerate(result.faces):
                probabilities = [f"{face.probabilities[name]:.7f}" for name in (face.label, *classes)]
                experts = [" ".join(map(str, face.experts.get(layer, ()))) for layer in ("moe_cnn", "moe_expression")]
                row = [*start, number, *(face.box or [None] * 4), face.score, face.label]
                table.rows([[*row, *probabilities, *experts, result.note, None]])

        yield add


def _draw(folder: Path, answered: Iterable[tuple[Input, Pictured]]) -> None:
    """Writes annotated copies in threads, up to eight: JPEG where the picture's name ends so, else PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    used: set[str] = set()
    tasks = ((source, result, folder / _unique(source.name, used)) for source, result in answered if result.faces)
    for _, why in ordered(lambda task: _draw_copy(*task), tasks, workers=min(8, os.cpu_count() or 1)):
        if why:
            say(shown(why, LONG))


def _unique(name: str, used: set[str]) -> str:
    """The name, without steps upwards, ending in .jpg, .jpeg or .png; not one of `used`, to which it is added."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..")] or ["picture"]
    *parents, last = parts
    stem, suffix = os.path.splitext(last)
    if suffix.lower() not in (".jpg", ".jpeg", ".png"):
        stem, suffix = last, ".png"
    for number in itertools.count(1):
        ending = suffix if number == 1 else f"-{number}{suffix}"
        kept = os.fsencode(stem)[: 255 - len(ending)].decode("utf-8", "ignore")  # bytes that a file's name may have
        made = "/".join([*parents, kept + ending])
        if made not in used:
            break
    used.add(made)
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
    with replacing(target) as part:
        if target.suffix.lower() == ".png":
            info = PngImagePlugin.PngInfo()
            info.add_text("Comment", _MARK)
            image.save(part, "PNG", pnginfo=info)
        else:
            image.save(part, "JPEG", quality=92, subsampling=0, comment=_MARK)
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
    image = ImageOps.scale(image.convert("RGB"), factor, Image.Resampling.NEAREST)
    drawing = ImageDraw.Draw(image)
    line = max(2, round(max(image.size) / 320))
    font = ImageFont.load_default(max(12, round(max(image.size) / 40)))
    for face in result.faces:
        left, top, width, height = (factor * n for n in face.box or (0, 0, image.width // factor, 0))
        if face.box:
            drawing.rectangle((left, top, left + width - 1, top + height - 1), outline=COLOUR, width=line)
        text = _fitting(f"{shown(face.label)} {face.probabilities[face.label]:.2f}", image.width - 4, font)
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
