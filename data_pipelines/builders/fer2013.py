"""FER-2013 in every shape in which people have it: the challenge's CSV files, and folders of pictures."""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import ClassVar

from PIL import Image

from data_pipelines.builders.base import BadPicture, FaceBuilder, Picture, Plan, Split, encode_png
from data_pipelines.builders.tables import read_rows
from data_pipelines.common.errors import DataError
from data_pipelines.labels import FER2013_CODES, SEVEN, UnknownLabel, canonical
from data_pipelines.sources import Source

SIDE = 48

#: The challenge's words, in the CSV column Usage and as prefixes of file names, and the splits that they mean.
USAGES = {"training": "train", "publictest": "public_test", "privatetest": "private_test"}

_TABLES = ("fer2013.csv", "icml_face_data.csv", "train.csv")  # the most complete first

_TRAIN = dict(zip(SEVEN, (3995, 436, 4097, 7215, 4965, 4830, 3171), strict=True))
_PUBLIC = dict(zip(SEVEN, (467, 56, 496, 895, 607, 653, 415), strict=True))
_PRIVATE = dict(zip(SEVEN, (491, 55, 528, 879, 626, 594, 416), strict=True))

_EXPECTED = (
    "fer2013.csv, icml_face_data.csv, train.csv, or folders train/<class>/ and test/<class>/, "
    "on their own, inside a folder, or in a zip or tar"
)


def protocol(splits: set[str]) -> str:
    """One sentence: what results on these splits of FER-2013 may be compared with."""
    if "private_test" in splits:
        rest = "; choose models on public_test" if "public_test" in splits else ""
        return f"Accuracy on private_test may be compared with published FER-2013 test results{rest}."
    if "public_test" in splits:
        return (
            "Accuracy on public_test may be compared with published public test (validation) results of FER-2013, "
            "not with private test results."
        )
    if "test" in splits:
        return (
            "test mixes PublicTest and PrivateTest (the file names do not tell them apart): compare only with results "
            "on both together, never with private test results."
        )
    return "There are only training pictures: no result on them may be compared with published ones."


class Fer2013(FaceBuilder):
    """FER-2013: 35,887 grey faces of 48x48 pixels in seven classes (Goodfellow et al., ICML 2013 challenge)."""

    CLASSES = SEVEN
    KNOWN_COUNTS: ClassVar[dict[str, dict[str, int]]] = {
        "train": _TRAIN,
        "public_test": _PUBLIC,
        "private_test": _PRIVATE,
        "test": {label: _PUBLIC[label] + _PRIVATE[label] for label in SEVEN},
    }
    WHERE_TO_GET_IT = 'ask Kaggle for "FER-2013" or for the ICML 2013 challenge in representation learning'

    def plan(self, source: Source | None) -> Plan:
        """Recognises the layout; where several lie side by side the most complete one wins.

        Raises DataError if nothing is recognised, or a class folder has an unknown name.
        """
        assert source is not None
        names = source.names()
        folders = _find_folders(names)
        tables = _find_tables(names)
        found = [*(table for table in tables if not table.endswith("train.csv"))]
        if folders and folders.has_known_class:
            found.append(folders.description)
        found += [table for table in tables if table not in found]
        notes = [f"chose {found[0]}; also there, not used: {', '.join(found[1:])}"] if len(found) > 1 else []
        for choice in found:
            if folders and choice == folders.description:
                return self._plan_folders(source, folders, notes)
            if table := PixelTable.open(source, choice):
                notes += _unlabelled(names) if table.layout == "train.csv" else []
                return self._plan_table(source, table, notes)
        if folders:
            return self._plan_folders(source, folders, notes)  # every class unknown: says so
        heads = f" ({', '.join(tables)}: the header has no columns emotion and pixels)" if tables else ""
        raise DataError(f"{source.path}: no FER-2013 recognised{heads}; expected {_EXPECTED}")

    def _plan_table(self, source: Source, table: PixelTable, notes: list[str]) -> Plan:
        expected: Counter[str] = Counter()
        for number, row in table.rows(source):
            try:
                expected[table.split_of(row)] += 1
            except BadPicture as error:
                self.skipped.add(f"row {number}", str(error))
        if not expected:
            raise DataError(f"{source.path}: {table.name} has no usable row")
        splits = {
            split: Split(expected[split], functools.partial(self._table_pictures, source, table, split))
            for split in USAGES.values()
            if expected[split]
        }
        return Plan(table.layout, protocol(set(splits)), splits, notes + _missing(set(splits)))

    def _table_pictures(self, source: Source, table: PixelTable, split: str) -> Iterator[Picture]:
        for number, row in table.rows(source):
            try:
                if table.split_of(row) != split:
                    continue
            except BadPicture:
                continue  # counted when the plan was made
            try:
                yield table.picture(number, row)
            except BadPicture as error:
                self.skipped.add(f"row {number}", str(error))

    def _plan_folders(self, source: Source, folders: _Folders, notes: list[str]) -> Plan:
        labels = folders.labels(str(source.path))
        with_usage = any(_usage(name) in ("public_test", "private_test") for name in folders.files if _in_test(name))
        wanted: dict[str, dict[str, Picture]] = {split: {} for split in (*USAGES.values(), "test")}
        for order, name in enumerate(folders.files):
            usage = _usage(name) if with_usage or not _in_test(name) else "test"
            if _in_test(name) and usage not in ("public_test", "private_test", "test"):
                self.skipped.add(name, "in the test folder, but the name says neither PublicTest nor PrivateTest")
            elif not _in_test(name) and usage in ("public_test", "private_test"):
                self.skipped.add(name, "a test picture in the training folder")
            else:
                split = usage if _in_test(name) and usage else "train"
                wanted[split][folders.prefix + name] = Picture(order, name, b"", labels[name.split("/")[-2]])
        splits = {
            split: Split(len(pictures), functools.partial(self._folder_pictures, source, pictures))
            for split, pictures in wanted.items()
            if pictures
        }
        if folders.aside:
            notes = [*notes, f"{folders.aside:,} other files were not used, for example {folders.aside_example}"]
        layout = "folders, renamed files" if "test" in splits else "folders"
        return Plan(layout, protocol(set(splits)), splits, notes + _missing(set(splits)))

    def _folder_pictures(self, source: Source, wanted: dict[str, Picture]) -> Iterator[Picture]:
        for path, data in source.read(wanted):
            yield dataclasses.replace(wanted[path], image=data)


def _missing(splits: set[str]) -> list[str]:
    """Says which official splits are not there."""
    official = {"train", "test"} if "test" in splits else set(USAGES.values())
    missing = [split for split in (*USAGES.values(), "test") if split in official - splits]
    return [f"not in this copy: {', '.join(missing)}"] if missing else []


def _base(name: str) -> str:
    return name.rpartition("/")[2].lower()


def _find_tables(names: list[str]) -> list[str]:
    """Paths of the CSV files that may hold FER-2013, the most complete first, then the least deep."""
    if len(names) == 1 and _base(names[0]).endswith(".csv"):
        return names  # somebody who gives one CSV file means it, whatever its name
    tables = [name for name in names if _base(name) in _TABLES]
    return sorted(tables, key=lambda name: (_TABLES.index(_base(name)), name.count("/"), name))


def _unlabelled(names: list[str]) -> list[str]:
    if not any(_base(name) == "test.csv" for name in names):
        return []
    return ["test.csv carries no labels and was not used: this copy has a train split only"]


@dataclasses.dataclass(frozen=True)
class PixelTable:
    """A CSV with one picture a row, as text."""

    name: str
    layout: str
    columns: dict[str, int]  # emotion, pixels and perhaps usage -> column number

    @classmethod
    def open(cls, source: Source, name: str) -> PixelTable | None:
        """The table called `name` if its header is one of FER-2013's."""
        with source.open(name) as stream:
            heads = next(read_rows(stream), [])
        if isinstance(heads, csv.Error):
            return None
        columns = {head.strip().lower(): number for number, head in enumerate(heads)}
        if not {"emotion", "pixels"} <= columns.keys():
            return None
        layout = "train.csv"
        if "usage" in columns:
            layout = "icml_face_data.csv" if any(head != head.strip() for head in heads) else "fer2013.csv"
        return cls(name, layout, columns)

    def rows(self, source: Source) -> Iterator[tuple[int, list[str] | csv.Error]]:
        """All rows after the header, counted from 0 as FER+ counts them, one at a time."""
        with source.open(self.name) as stream:
            rows = read_rows(stream)
            next(rows)
            yield from enumerate(rows)

    def _cell(self, row: list[str] | csv.Error, column: str) -> str:
        if isinstance(row, csv.Error):
            raise BadPicture(f"no valid CSV ({row})")
        if len(row) <= max(self.columns.values()):
            raise BadPicture(f"has {len(row)} columns, expected {max(self.columns.values()) + 1}")
        return row[self.columns[column]].strip()

    def split_of(self, row: list[str] | csv.Error) -> str:
        """The split of a row. Raises BadPicture if the row is damaged or its Usage unknown."""
        if "usage" not in self.columns:
            self._cell(row, "pixels")
            return "train"
        usage = self._cell(row, "usage")
        if usage.lower() not in USAGES:
            raise BadPicture(f"unknown Usage {usage[:40]!r}, expected Training, PublicTest or PrivateTest")
        return USAGES[usage.lower()]

    def picture(self, number: int, row: list[str] | csv.Error) -> Picture:
        """The row as a PNG. Raises BadPicture if its emotion or its pixels are wrong."""
        emotion = self._cell(row, "emotion")
        if emotion not in [str(code) for code in range(len(FER2013_CODES))]:
            raise BadPicture(f"emotion {emotion[:40]!r}, expected a code from 0 to {len(FER2013_CODES) - 1}")
        values = self._cell(row, "pixels").split()
        if len(values) != SIDE * SIDE:
            raise BadPicture(f"{len(values):,} pixels, expected {SIDE * SIDE:,}")
        try:
            pixels = bytes(map(int, values))
        except ValueError:
            raise BadPicture("a pixel is no whole number from 0 to 255") from None
        image = encode_png(Image.frombytes("L", (SIDE, SIDE), pixels))
        return Picture(number, f"row {number}", image, FER2013_CODES[int(emotion)])


def _in_test(name: str) -> bool:
    return name.split("/")[-3].lower() == "test"


def _usage(name: str) -> str | None:
    """The split that a file's prefix (PublicTest_123.jpg) tells, if any."""
    prefix, separator, _ = _base(name).partition("_")
    return USAGES.get(prefix) if separator else None


def _label(folder: str) -> str | None:
    """The class that a folder's name means, if it is one of the seven."""
    try:
        label = canonical(folder)
    except UnknownLabel:
        return None
    return label if label in SEVEN else None


@dataclasses.dataclass(frozen=True)
class _Folders:
    """Pictures at <prefix>{train,test}/<class>/<file>."""

    prefix: str  # what all paths begin with; empty, or ends with a slash
    files: list[str]  # relative to prefix, sorted
    aside: int  # files elsewhere
    aside_example: str

    @property
    def description(self) -> str:
        return f"{self.prefix}train/ and test/"

    @property
    def has_known_class(self) -> bool:
        return any(_label(name.split("/")[-2]) for name in self.files)

    def labels(self, where: str) -> dict[str, str]:
        """Class folder -> label. Raises DataError that names the first unknown folder."""
        labels = {}
        for name in self.files:
            folder = name.split("/")[-2]
            label = _label(folder)
            if label is None:
                path = f"{self.prefix}{name.rpartition('/')[0]}"
                known = "angry, disgust, fear, happy, neutral, sad, surprise"
                raise DataError(f"{where}: unknown class folder {path!r}; known: {known}")
            labels[folder] = label
        return labels


def _find_folders(names: list[str]) -> _Folders | None:
    """The train/ and test/ folders under one root; of several roots the one with the most labelled pictures."""
    roots: dict[str, list[str]] = defaultdict(list)
    for name in names:
        parts = name.split("/")
        if len(parts) >= 3 and parts[-3].lower() in ("train", "test"):
            roots["/".join([*parts[:-3], ""])].append("/".join(parts[-3:]))
    if not roots:
        return None
    prefix = max(sorted(roots), key=lambda root: sum(_label(file.split("/")[-2]) is not None for file in roots[root]))
    used = {prefix + file for file in roots[prefix]}
    aside = [name for name in names if name not in used]
    return _Folders(prefix, roots[prefix], len(aside), aside[0] if aside else "")
