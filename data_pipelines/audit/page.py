"""A report of `audit` as one HTML file: it needs no network and no script, and shows example pictures of each finding.

The names in it come from strangers' files: what templates/audit.html.j2 prints is escaped (`common.pages`).
"""

import base64
import contextlib
import io
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from data_pipelines import hashing, pictures
from data_pipelines.audit import audit
from data_pipelines.common import pages
from data_pipelines.common.errors import DataError
from data_pipelines.common.files import check_file, write_text
from data_pipelines.common.pages import Cell, Grid
from data_pipelines.common.text import counted, progress, reason

GROUPS = 12  # of each kind of group, so that the page stays at a few MB
IN_GROUP = 6
SINGLES = 24  # of each finding in single pictures
_SIDE = 96  # pixels of the pictures on the page

_MOMENTS = (("mean", "mean"), ("standard deviation", "deviation"))
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
    check_file("--html", where)
    try:
        write_text(where, _page(report))
    except OSError as error:
        raise DataError(f"{where}: cannot be written ({reason(error)}); give --html another place") from error


def _sections(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the page says of each finding that there is: in each part a heading, examples, and how many there are."""
    for key, title in audit.TITLES.items():
        kind, parts = report[key], {"": report[key]["listed"]}
        if key in audit.DUPLICATES:
            parts = {heading: [] for heading in _PARTS.values()}
            for group in kind["listed"]:
                parts[_PARTS[len(group["splits"]) > 1, len(group["labels"]) > 1]].append(group)
        if kind["total"]:
            yield {
                "key": key,
                "title": title.capitalize(),
                "total": kind.get("pictures", kind["total"]),
                "leaks": audit.leaks(kind, key),
                "parts": [
                    {"heading": heading, "examples": _spread(found, GROUPS if heading else SINGLES), "total": total}
                    for heading, found in parts.items()
                    if (total := len(found) if heading else kind["total"])
                ],
            }


def _spread(items: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """At most so many of the items, from all over the list, which goes from class to class."""
    number = min(number, len(items))
    return [items[place * len(items) // number] for place in range(number)]


def _thumbnails(report: dict[str, Any], sections: list[dict[str, Any]]) -> dict[_Key, str]:
    """The examples' pictures as data: URIs, from a second look at the data set, which ends as soon as it has them."""
    waiting: dict[str, set[str]] = {split: set() for split in report["splits"]}
    parts = (part for section in sections if section["key"] != "unusable" for part in section["parts"])
    for example in itertools.chain.from_iterable(part["examples"] for part in parts):
        for one in example["pictures"][:IN_GROUP] if "pictures" in example else [example]:
            waiting[one["split"]].add(one["name"])
    opened = audit.open_pictures(report["what"], report["data_dir"])
    found: dict[_Key, str] = {}
    for split, total in opened.splits.items():
        names = waiting.get(split)
        if not names:
            continue
        with progress(f"page {split}", total) as bar:
            for picture in opened.stream(split):
                bar.update()
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


def _page(report: dict[str, Any]) -> str:
    sections = list(_sections(report))
    templates = pages.environment(Path(__file__).parent / "templates")
    templates.filters |= {"detail": audit.detail, "counted": counted}
    return pages.render(
        templates.get_template("audit.html.j2"),
        title=f"Audit of {report['what']}",
        report=report,
        found=_found(report, sections),
        classes=_classes(report),
        pixels=_pixels(report),
        sizes=audit.sizes(report),
        sections=sections,
        thumbnails=_thumbnails(report, sections),
        in_group=IN_GROUP,
        side=hashing.SIDE,
    )


def _found(report: dict[str, Any], sections: list[dict[str, Any]]) -> Grid:
    """Every finding, with a link to its section where there is one."""
    linked = {section["key"] for section in sections}
    rows = []
    for key, title in audit.TITLES.items():
        kind = report[key]
        counts = [kind["total"], None, None, None]
        if key in audit.DUPLICATES:
            leaks = sum(leak["pictures"] for leak in kind["leaks"])
            counts = [kind["pictures"], kind["total"], kind["conflicting"], leaks]
        name = title.capitalize()
        head = Cell({"id": key, "name": name}, "link") if key in linked else Cell(name)
        rows.append([head, *(Cell(count, "count") for count in counts)])
    return Grid(["finding", "pictures", "groups", "labels differ", "across splits"], rows)


def _by_row(corner: str, columns: Iterable[str], rows: Iterable[tuple[str, str, Iterable[Any]]]) -> Grid:
    """A table whose rows are (title, form, a value for each column)."""
    cells = [[Cell(title), *(Cell(value, form) for value in values)] for title, form, values in rows]
    return Grid([corner, *columns], cells)


def _classes(report: dict[str, Any]) -> Grid:
    splits = report["splits"].values()

    def portion(split: dict[str, Any], label: str) -> dict[str, float]:
        n = split["classes"][label]
        return {"count": n, "share": n / max(1, split["pictures"]), "bar": n / max(1, *split["classes"].values())}

    rows = [(label, "portion", [portion(split, label) for split in splits]) for label in report["all"]["classes"]]
    rows.append(("all", "count", [split["pictures"] for split in splits]))
    rows.append(("largest : smallest", "rate", [split["imbalance"] for split in splits]))
    return _by_row("class", report["splits"], rows)


def _pixels(report: dict[str, Any]) -> Grid:
    parts = report["splits"] | {"all": report["all"]}
    rows = [
        ("pictures in grey", "count", [part["grey"] + part["colour_without_colour"] for part in parts.values()]),
        ("pictures in colour", "count", [part["colour"] for part in parts.values()]),
    ]
    rows += [(title, "pixel", [part[key] for part in parts.values()]) for title, key in _MOMENTS]
    for place, name in enumerate(("red", "green", "blue") if len(report["all"]["channels"]) == 3 else ()):
        channels = [(part["channels"] * 3)[place] for part in parts.values()]  # the only one of grey stands for three
        rows += [(f"{title}, {name}", "pixel", [channel[key] for channel in channels]) for title, key in _MOMENTS]
    return _by_row("pixels, 0 to 1", parts, rows)
