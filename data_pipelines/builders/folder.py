"""Anybody's own pictures: in folders named after their classes, or listed in a table."""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import posixpath
import re
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from data_pipelines.builders import tables
from data_pipelines.builders.arrow_tables import ArrowTables
from data_pipelines.builders.base import FaceBuilder, Picture, Plan
from data_pipelines.builders.tables import Row, Wanted, cells, quote
from data_pipelines.common.errors import DataError
from data_pipelines.labels import EMOTIONS, canonical
from data_pipelines.pictures import BadPicture
from data_pipelines.sources import Source

#: What people call the splits, in lower case, and what they are called here.
SPLITS = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "publictest": "validation",
    "test": "test", "testing": "test", "privatetest": "test",
}  # fmt: skip
_ORDER = ("train", "validation", "test")

# What is a picture to somebody who looks at its name. Some are of a kind that is not read (GIF, HEIC, AVIF): they count
# as pictures, so that each is skipped by name instead of vanishing among the other files.
_SUFFIXES = (*tables.SUFFIXES, ".jfif", ".gif", ".heic", ".heif", ".avif")
_TABLE_SUFFIXES = (".csv", ".tsv")
_SEPARATORS = ",\t;"

_HEADS = {
    "path": ("path", "image", "file", "filename", "pth"),
    "label": ("label", "emotion", "class", "expression"),
    "split": ("split", "usage", "set"),
}

_EXPECTED = (
    "folders <split>/<class>/, <class>/<split>/ or <class>/, or a CSV with columns path, label and perhaps split, or "
    f"Parquet or Arrow files with pictures; classes: {', '.join(EMOTIONS)}; splits: {', '.join(SPLITS)}"
)


class Folder(FaceBuilder):
    """Pictures of your own, by class folders, with split folders above or below them, or by a table.

    A table is a CSV of path, label and perhaps split beside the pictures, or Hugging Face's files with pictures inside.

    A table with these columns beside the folders wins: where it and a class folder differ, the table is right. Classes
    have names, in any usual spelling; numbers are refused, because they mean different classes in different data sets.
    """

    CLASSES = EMOTIONS
    WHERE_TO_GET_IT = "these are your own pictures, in folders named after their classes or listed in a CSV"

    def plan(self, source: Source) -> Plan:
        """Recognises a table at the top, or class folders, perhaps inside another folder."""
        files = _Files.of(source.names())
        if files.names == [source.path.name] and source.path.name.lower().endswith(_TABLE_SUFFIXES):
            way_out = f"give the folder that holds both: --from {source.path.parent}"
            raise DataError(f"{source.path}: a table without its pictures; {way_out}")
        found, other_tables = _find_tables(source, files)
        if len(found) > 1:
            listing = f"{len(found)} tables list pictures: {', '.join(found)}"
            way_out = "put all rows into one with a column split, and move the others away"
            raise DataError(f"{source.path}: {listing}; {way_out}")
        if found:
            return self._plan_table(source, files, *found.popitem())
        if not files.pictures() and (arrow := ArrowTables.find(source.names(), SPLITS)):
            return self._plan_arrow(source, arrow, other_tables)
        why = "".join(f" ({reason})" for reason in other_tables[:1])
        try:
            return self._plan_folders(source, files, other_tables)
        except DataError as error:  # perhaps the table was meant
            raise DataError(f"{error}{why}") from None

    def _plan_folders(self, source: Source, files: _Files, notes: list[str]) -> Plan:
        """Class folders outside the split folders are the training split, unless there is one already."""
        parts = {name: _split_first(name) for name in files.pictures()}
        inside = {name for name, path in parts.items() if len(path) > 2 and path[0].lower() in SPLITS}
        has_train = any(SPLITS[parts[name][0].lower()] == "train" for name in inside)
        wanted: dict[str, Wanted] = {}
        aside, kinds, order = [], set(), itertools.count()
        for name in files.names:
            first, *rest = parts.get(name, [""])
            if name in inside:
                split, folder = SPLITS[first.lower()], rest[0]
            elif rest and first.lower() not in SPLITS and not has_train:
                split, folder = "train", first
            else:
                aside.append(name)
                continue
            label = _label(folder, f"{source.path}: class folder {quote(name.rpartition('/')[0])}")
            wanted.setdefault(split, {})[files.prefix + name] = Picture(next(order), name, b"", label)
            below = "<split>/<class>" if name.startswith(f"{first}/") else "<class>/<split>"
            kinds.add(below if name in inside else "<class>")
        if not wanted:
            raise DataError(f"{source.path}: no pictures with classes recognised; expected {_EXPECTED}")
        why = " (hidden, no picture by name, or outside the class folders)"
        notes = notes + tables.unused(files.hidden + aside, "file", why)
        layout = f"folders {' and '.join(sorted(kinds, reverse=True))}"
        return self._plan(source, layout, wanted, notes, "move about a tenth of each class to test/<class>/")

    def _plan_table(self, source: Source, files: _Files, table: str, columns: dict[str, int]) -> Plan:
        """Pictures by a table; where it has no split, the folders tell it, and else it is train."""
        known = {name: files.prefix + name for name in files.names}
        above = ("", files.prefix, f"{source.path.name}/")  # paths may begin above the table

        def read(numbered: tuple[int, Row]) -> tuple[str, str, str]:
            number, row = numbered
            where = f"{source.path}: {table} row {number}"
            path, text, *told = cells(row, columns)
            name = _resolve(path, known, above)
            if "" in (text, *told):
                raise BadPicture(f"{quote(path)} has no {'split' if text else 'label'}")
            label = _label(text, where)
            folder = name.partition("/")[0]
            split = told[0] if told else folder if folder.lower() in SPLITS else "train"
            if split.lower() not in SPLITS:
                raise DataError(f"{where}: unknown split {quote(split)}; known: {', '.join(SPLITS)}")
            return name, label, SPLITS[split.lower()]

        rows = itertools.islice(tables.read_rows(source, files.prefix + table, _SEPARATORS), 1, None)
        wanted = tables.match(self.skipped, table, enumerate(rows), read, known)
        listed = {picture.name: picture.label for inside in wanted.values() for picture in inside.values()}
        labels = ((_folder_label(name), label) for name, label in listed.items())
        notes = tables.beside(table, labels, [name for name in files.pictures() if name not in listed])
        if "split" not in columns:
            notes.append(f"{table} has no column split: folders train/, val/ and test/ tell the split, if any")
        way = f"write test into the column split of {table} for about a tenth of each class"
        return self._plan(source, f"table {table}", wanted, notes, way)

    def _plan_arrow(self, source: Source, arrow: ArrowTables, notes: list[str]) -> Plan:
        """Pictures inside Parquet or Arrow files."""
        label = functools.partial(_label, where=str(source.path))
        wanted, more = arrow.wanted(source, self.skipped, SPLITS, label)
        pictures = functools.partial(arrow.pictures, skipped=self.skipped)
        way = "write about a tenth of the rows of each class to a file test.parquet"
        return self._plan(source, f"{arrow.kind} files", wanted, notes + more, way, pictures)

    def _plan(
        self, source: Source, layout: str, wanted: Mapping[str, Any], notes: list[str], way: str,
        pictures: Callable[[Source, Any], Iterator[Picture]] = tables.stream,
    ) -> Plan:  # fmt: skip
        splits = tables.make_splits(source, self.skipped, wanted, _ORDER, pictures)
        protocol = "Your own data: compare only with results on the same files."
        if "test" not in splits:
            protocol += " There is no test split, so no result on them tells how well new pictures are recognised."
            notes = [*notes, f"there is no test split; to have one, {way}, and prepare again"]
        if "train" in splits and "validation" not in splits:
            notes = [*notes, "there is no validation split; training holds out a part of train"]
        return Plan(layout, protocol, splits, notes)


def _label(text: str, where: str) -> str:
    """The class that a label or a folder means. Raises DataError, which begins with `where`, if it means none."""
    if label := canonical(text):
        return label
    known = f"{', '.join(EMOTIONS)}, or a usual spelling of these"
    if re.fullmatch(r"[-+]?\d+(\.\d*)?", text):
        why = "is a number, and numbers mean different classes in different data sets"
        raise DataError(f"{where}: the label {quote(text)} {why}; write names: {known}")
    raise DataError(f"{where}: unknown class {quote(text)}; known: {known}")


def _split_first(name: str) -> list[str]:
    """The parts of a path; of <class>/<split>/<file> with the split before the class."""
    first, *rest = name.split("/")
    swap = len(rest) > 1 and rest[0].lower() in SPLITS and first.lower() not in SPLITS
    return [rest[0], first, *rest[1:]] if swap else [first, *rest]


def _folder_label(name: str) -> str | None:
    """The class whose folder a picture lies in, if any: of several the innermost."""
    return next(filter(None, map(canonical, reversed(name.split("/")[:-1]))), None)


@dataclasses.dataclass(frozen=True)
class _Files:
    """The files of a source without the folders around all of them."""

    prefix: str  # what all paths begin with; empty, or ends with a slash
    names: list[str]  # without prefix, sorted
    hidden: list[str]  # those with a part that begins with a dot, not in names

    @classmethod
    def of(cls, names: list[str]) -> _Files:
        """Finds the innermost folder that holds everything and is neither a split's nor a class's."""
        hidden = [name for name in names if "/." in f"/{name}"]
        shown = sorted(set(names).difference(hidden))
        around = posixpath.commonpath([posixpath.dirname(name) for name in shown] or [""]).split("/")
        outer = itertools.takewhile(lambda part: part and part.lower() not in SPLITS and not canonical(part), around)
        prefix = "".join(f"{folder}/" for folder in outer)
        return cls(prefix, [name.removeprefix(prefix) for name in shown], hidden)

    def pictures(self) -> list[str]:
        """The names that end like a picture's."""
        return [name for name in self.names if name.lower().endswith(_SUFFIXES)]


def _resolve(path: str, known: Container[str], above: tuple[str, ...]) -> str:
    """The file of `known` that a path in a table means, which may begin with one of `above`. Raises BadPicture."""
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    if re.match(r"[/\\]|[A-Za-z]:", path):
        raise BadPicture(f"{quote(path)} is an absolute path; write paths as seen from the table")
    if ".." in parts:
        raise BadPicture(f"{quote(path)} leads out of a folder with '..'; write paths as seen from the table")
    for folder in above:
        name = "/".join(parts).removeprefix(folder)
        if name in known:
            return name
    raise BadPicture(f"there is no file {quote(path)}" if path else "no path")


def _find_tables(source: Source, files: _Files) -> tuple[dict[str, dict[str, int]], list[str]]:
    """The tables of pictures at the top: {name: `_places`}, and for each other table a line why it is none.

    Raises DataError if a table has two columns for the same thing.
    """
    found, others = {}, []
    for name in files.names:
        if "/" in name or not name.lower().endswith(_TABLE_SUFFIXES):
            continue
        heads = next(tables.read_rows(source, files.prefix + name, _SEPARATORS), [])
        places = _places([] if isinstance(heads, csv.Error) else heads, f"{source.path}: {name}")
        missing = [f"{column} ({', '.join(_HEADS[column])})" for column in ("path", "label") if column not in places]
        if missing:
            others.append(f"{name} is no table of pictures: no column for the {' and none for the '.join(missing)}")
        else:
            found[name] = places
    return found, others


def _places(heads: list[str], where: str) -> dict[str, int]:
    """The number of each column of _HEADS that a header has. Raises DataError where it has two for one thing."""
    places: dict[str, int] = {}
    for column, spellings in _HEADS.items():
        numbers = [number for number, head in enumerate(heads) if head.strip().lower() in spellings]
        if len(numbers) > 1:
            both = " and ".join(quote(heads[number]) for number in numbers)
            raise DataError(f"{where}: two columns for the {column}: {both}; keep one of them")
        if numbers:
            places[column] = numbers[0]
    return places
