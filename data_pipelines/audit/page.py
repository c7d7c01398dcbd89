"""A report of `audit` as one HTML file: it needs no network and no script, and shows example pictures of each finding.

The names in it come from strangers' files: what templates/audit.html.j2 prints is escaped (`common.pages`).
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from data_pipelines import hashing, pictures
from data_pipelines.audit import audit
from data_pipelines.common import pages
from data_pipelines.common.errors import DataError
from data_pipelines.common.files import replacing
from data_pipelines.common.pages import Cell, Grid
from data_pipelines.common.text import counted

GROUPS = 12  # of each kind of group, so that the page stays at a few MB
IN_GROUP = 6
SINGLES = 24  # of each finding in single pictures
_SIDE = 96  # pixels of the pictures on the page

_Key = tuple[str, str]  # split and name of a picture
#: (in several splits, with several labels) -> heading.
_PARTS = {
    (True, True): "Groups across splits, with different labels",
    (True, False): "Groups across splits, with one label",
    (False, True): "Groups within a split, with different labels",
    (False, False): "Groups within a split, with one label",
}


def write(report: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes the page, completely or not at all; the same for the same report.

    The example pictures are read from where the report's were. Raises DataError if they, or the file, cannot be.
    """
    where = Path(path).expanduser()
    if where.exists() and not where.is_file():
        raise DataError(f"{where}: is no file; give --html the name of a file")
    try:
        with replacing(where) as part, part.open("w", encoding="ascii", newline="\n") as stream:
            stream.write(_page(report, _thumbnails(report)))
    except OSError as error:
        raise DataError(f"{where}: cannot be written ({error.strerror or error}); give --html another place") from error


def _examples(report: dict[str, Any]) -> Iterator[tuple[str, str, list[dict[str, Any]], int]]:
    """(finding, heading, examples to show, number of all such) of everything that was found."""
    for key in audit.DUPLICATES:
        for part, heading in _PARTS.items():
            groups = [one for one in report[key]["listed"] if part == (len(one["splits"]) > 1, len(one["labels"]) > 1)]
            if groups:
                yield key, heading, _spread(groups, GROUPS), len(groups)
    for key in audit.SINGLES:
        if report[key]["total"]:
            yield key, "", _spread(report[key]["listed"], SINGLES), report[key]["total"]


def _spread(items: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """At most so many of the items, from all over the list, which goes from class to class."""
    number = min(number, len(items))
    return [items[place * len(items) // number] for place in range(number)]


def _thumbnails(report: dict[str, Any]) -> dict[_Key, str]:
    """The examples' pictures as data: URIs, from a second look at the data set, which ends as soon as it has them."""
    waiting: dict[str, set[str]] = {split: set() for split in report["splits"]}
    for key, _, examples, _ in _examples(report):
        for example in examples if key != "unusable" else []:
            for one in example["pictures"][:IN_GROUP] if key in audit.DUPLICATES else [example]:
                waiting[one["split"]].add(one["name"])
    opened = audit.open_pictures(report["what"], report["data_dir"])
    found: dict[_Key, str] = {}
    for split, total in opened.splits.items():
        names = waiting.get(split)
        if not names:
            continue
        stream = opened.stream(split)
        for picture in tqdm(stream, f"page {split}", total, unit=" pictures", file=sys.stderr, disable=None):
            if picture.name in names:
                with contextlib.suppress(pictures.BadPicture):  # it has changed since
                    found[split, picture.name] = _thumbnail(picture.image)
                names.remove(picture.name)
                if not names:
                    break
    return found


def _thumbnail(data: bytes) -> str:
    image = pictures.decode(data)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)  # encoded anew: nothing else that the file may hold gets into the page
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _page(report: dict[str, Any], thumbnails: dict[_Key, str]) -> str:
    templates = pages.environment(Path(__file__).parent / "templates")
    templates.filters |= {"detail": audit.detail, "counted": counted}
    return pages.render(
        templates.get_template("audit.html.j2"),
        title=f"Audit of {report['what']}",
        report=report,
        found=_found(report),
        classes=_classes(report),
        pixels=_pixels(report),
        sizes=audit.sizes(report),
        sections=list(_sections(report)),
        thumbnails=thumbnails,
        in_group=IN_GROUP,
        side=hashing.SIDE,
    )


def _title(key: str) -> str:
    words = audit.DUPLICATES[key][0] if key in audit.DUPLICATES else audit.SINGLES[key]
    return words.capitalize()


def _count(report: dict[str, Any], key: str) -> int:
    return report[key]["pictures" if key in audit.DUPLICATES else "total"]


def _found(report: dict[str, Any]) -> Grid:
    rows = []
    for key in (*audit.DUPLICATES, *audit.SINGLES):
        kind, count = report[key], _count(report, key)
        groups = [None] * 3
        if key in audit.DUPLICATES:
            groups = [kind["total"], kind["conflicting"], sum(leak["pictures"] for leak in kind["leaks"])]
        name = Cell({"id": key, "name": _title(key)}, "link") if count else Cell(_title(key))
        rows.append([name, *(Cell(value, "count") for value in (count, *groups))])
    return Grid(["finding", "pictures", "groups", "labels differ", "across splits"], rows)


def _classes(report: dict[str, Any]) -> Grid:
    splits = report["splits"].values()
    rows = []
    for label in report["all"]["classes"]:
        counts = ((split["classes"][label], split) for split in splits)
        portions = [
            {"count": n, "share": n / max(1, split["pictures"]), "bar": n / max(1, *split["classes"].values())}
            for n, split in counts
        ]
        rows.append([Cell(label), *(Cell(portion, "portion") for portion in portions)])
    rows.append([Cell("all"), *(Cell(split["pictures"], "count") for split in splits)])
    rows.append([Cell("largest : smallest"), *(Cell(split["imbalance"] or None, "rate") for split in splits)])
    return Grid(["class", *report["splits"]], rows)


def _pixels(report: dict[str, Any]) -> Grid:
    parts = {**report["splits"], "all": report["all"]}
    names = ("red", "green", "blue") if len(report["all"]["channels"]) == 3 else ()

    def row(title: str, form: str, value: Callable[[dict[str, Any]], Any]) -> list[Cell]:
        return [Cell(title), *(Cell(value(part), form) for part in parts.values())]

    rows = [
        row("pictures in grey", "count", lambda part: part["grey"] + part["colour_without_colour"]),
        row("pictures in colour", "count", lambda part: part["colour"]),
        row("mean", "pixel", lambda part: part["mean"]),
        row("standard deviation", "pixel", lambda part: part["deviation"]),
    ]
    for place, name in enumerate(names):
        for title, key in (("mean", "mean"), ("standard deviation", "deviation")):
            # A split without colour has one channel, which stands for three.
            channels = [part["channels"][min(place, len(part["channels"]) - 1)] for part in parts.values()]
            rows.append([Cell(f"{title}, {name}"), *(Cell(channel[key], "pixel") for channel in channels)])
    return Grid(["pixels, 0 to 1", *parts], rows)


def _sections(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Of each finding that there is: what the page says of it."""
    for key in (*audit.DUPLICATES, *audit.SINGLES):
        found = [example for example in _examples(report) if example[0] == key]
        parts = [{"heading": heading, "examples": examples, "total": total} for _, heading, examples, total in found]
        leaks = audit.leaks(report[key], audit.DUPLICATES[key][1]) if key in audit.DUPLICATES else []
        if parts:
            yield {"key": key, "title": _title(key), "total": _count(report, key), "leaks": leaks, "parts": parts}
