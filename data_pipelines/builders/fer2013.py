"""FER-2013 in every form in which people have it: the challenge's CSV files, and folders of pictures."""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
from collections.abc import Collection, Iterator
from typing import ClassVar

from PIL import Image

from data_pipelines.builders import tables
from data_pipelines.builders.base import FaceBuilder, Picture, Plan, Skipped
from data_pipelines.builders.tables import ClassFolders, Row, base, cells, quote
from data_pipelines.common.errors import DataError
from data_pipelines.common.text import counted
from data_pipelines.labels import FER2013_CODES, SEVEN, canonical
from data_pipelines.pictures import BadPicture, encode
from data_pipelines.sources import Source

SIDE = 48

#: The challenge's words, in the CSV column Usage and as prefixes of file names, and the splits that they mean.
USAGES = {"training": "train", "publictest": "public_test", "privatetest": "private_test"}

OFFICIAL = tuple(USAGES.values())

_TABLES = ("fer2013.csv", "icml_face_data.csv", "train.csv")  # the most complete first

_TRAIN = dict(zip(SEVEN, (3995, 436, 4097, 7215, 4965, 4830, 3171), strict=True))
_PUBLIC = dict(zip(SEVEN, (467, 56, 496, 895, 607, 653, 415), strict=True))
_PRIVATE = dict(zip(SEVEN, (491, 55, 528, 879, 626, 594, 416), strict=True))

_KNOWN = "angry, disgust, fear, happy, neutral, sad, surprise"
_EXPECTED = (
    "fer2013.csv, icml_face_data.csv, train.csv, or folders train/<class>/ and test/<class>/, "
    "on their own, inside a folder, or in a zip or tar"
)

#: What results may be compared with, where there is such a split; the first that is there counts.
_PROTOCOLS = {
    "private_test": "Accuracy on private_test may be compared with published FER-2013 test results",
    "public_test": (
        "Accuracy on public_test may be compared with published public test (validation) results of FER-2013, not with "
        "private test results"
    ),
    "test": (
        "test mixes PublicTest and PrivateTest (the file names do not tell them apart): compare only with results on "
        "both together, never with private test results"
    ),
}


class Fer2013(FaceBuilder):
    """FER-2013: 35,887 grey faces of 48x48 pixels in seven classes (Goodfellow et al., ICML 2013 challenge)."""

    CLASSES = SEVEN
    KNOWN_COUNTS: ClassVar[dict[str, dict[str, int]]] = {
        **dict(zip(OFFICIAL, (_TRAIN, _PUBLIC, _PRIVATE), strict=True)),
        "test": {label: _PUBLIC[label] + _PRIVATE[label] for label in SEVEN},
    }
    WHERE_TO_GET_IT = 'ask Kaggle for "FER-2013" or for the ICML 2013 challenge in representation learning'

    def plan(self, source: Source) -> Plan:
        """Recognises the layout; of several the most complete one is taken, then the one that lies the least deep."""
        names = source.names()
        folders = ClassFolders.find(names, ("train", "test"), _label)
        found = [path for table in _TABLES for path in tables.find(names, (table,))]
        if len(names) == 1 and names[0].lower().endswith(".csv"):
            found = names  # somebody who gives one CSV file means it, whatever its name
        shown = f"{folders.root}train/ and test/" if folders else ""
        # Folders have a test split that train.csv has not. Those without any known class are hardly meant.
        choices = [*found, shown] if folders and folders.known else found
        choices.sort(key=lambda choice: choice.endswith("train.csv"))
        notes = tables.chose(*choices) if choices else []
        for choice in choices:
            if folders and choice == shown:
                return self._plan_folders(source, names, folders, notes)
            if table := PixelTable.open(source, choice):
                if table.layout == "train.csv" and tables.find(names, ("test.csv",)):
                    notes.append("test.csv carries no labels and was not used: this copy has a train split only")
                return self._plan_table(source, table, notes)
        if folders:
            return self._plan_folders(source, names, folders, notes)  # says that all its classes are unknown
        heads = f" ({', '.join(found)}: the header has no columns emotion and pixels)" if found else ""
        raise DataError(f"{source.path}: no FER-2013 recognised{heads}; expected {_EXPECTED}")

    def _plan_table(self, source: Source, table: PixelTable, notes: list[str]) -> Plan:
        wanted: dict[str, set[int]] = {}  # split -> numbers of rows
        for number, row in table.rows(source):
            try:
                wanted.setdefault(table.split_of(row), set()).add(number)
            except BadPicture as error:
                self.skipped.add(f"row {number}", str(error))
        pictures = functools.partial(table.pictures, skipped=self.skipped)
        splits = tables.make_splits(source, self.skipped, wanted, OFFICIAL, pictures)
        return Plan(table.layout, tables.protocol(splits, _PROTOCOLS), splits, notes + tables.absent(splits, OFFICIAL))

    def _plan_folders(self, source: Source, names: list[str], folders: ClassFolders, notes: list[str]) -> Plan:
        mixed = not any(_in_test(name) and _usage(name) in OFFICIAL[1:] for name in folders.files)

        def split_of(name: str) -> str | None:
            usage = _usage(name)
            if not _in_test(name):
                if usage not in OFFICIAL[1:]:
                    return "train"
                self.skipped.add(name, "a test picture in the training folder")
            elif mixed or usage in OFFICIAL[1:]:
                return "test" if mixed else usage
            else:
                self.skipped.add(name, "in the test folder, but the name says neither PublicTest nor PrivateTest")
            return None

        wanted = folders.labelled(split_of, _label, _KNOWN, str(source.path))
        splits = tables.make_splits(source, self.skipped, wanted, (*OFFICIAL, "test"))
        used = {folders.root + name for name in folders.files}
        notes = notes + tables.unused([name for name in names if name not in used], "other file")
        notes += tables.absent(splits, ("train", "test") if "test" in splits else OFFICIAL)
        layout = "folders, renamed files" if "test" in splits else "folders"
        return Plan(layout, tables.protocol(splits, _PROTOCOLS), splits, notes)


def split_of_usage(usage: str) -> str:
    """The split that a word in a column Usage means. Raises BadPicture."""
    if usage.lower() not in USAGES:
        raise BadPicture(f"unknown Usage {quote(usage)}, expected Training, PublicTest or PrivateTest")
    return USAGES[usage.lower()]


@dataclasses.dataclass(frozen=True)
class PixelTable:
    """A CSV with one picture a row, as text."""

    path: str
    layout: str
    columns: dict[str, int]  # emotion, pixels and perhaps usage -> column number

    @classmethod
    def open(cls, source: Source, path: str) -> PixelTable | None:
        """The table at `path` if its header is one of FER-2013's."""
        heads = next(tables.read_rows(source, path), [])
        if isinstance(heads, csv.Error):
            return None
        there = {head.strip().lower(): number for number, head in enumerate(heads)}
        names: tuple[str, ...] = ("emotion", "pixels", "usage")
        columns = {name: there[name] for name in names if name in there}
        if not {"emotion", "pixels"} <= columns.keys():
            return None
        layout = "train.csv"
        if "usage" in columns:
            layout = "icml_face_data.csv" if any(head != head.strip() for head in heads) else "fer2013.csv"
        return cls(path, layout, columns)

    def rows(self, source: Source) -> Iterator[tuple[int, Row]]:
        """All rows after the header, counted from 0 as FER+ counts them, one at a time."""
        return enumerate(itertools.islice(tables.read_rows(source, self.path), 1, None))

    def split_of(self, row: Row) -> str:
        """The split of a row. Raises BadPicture if the row is damaged or its Usage unknown."""
        _, _, *usage = cells(row, self.columns)
        return split_of_usage(usage[0]) if usage else "train"  # train.csv has no Usage

    def pictures(self, source: Source, wanted: Collection[int], skipped: Skipped, where: str = "") -> Iterator[Picture]:
        """The pictures of the rows `wanted`; one that cannot be used is `skipped`, as a row of `where`."""
        for number, row in self.rows(source):
            if number in wanted:
                try:
                    yield self._picture(number, row)
                except BadPicture as error:
                    skipped.add(f"{where} row {number}".lstrip(), str(error))

    def _picture(self, number: int, row: Row) -> Picture:
        """The row as a PNG. Raises BadPicture if its emotion or its pixels are wrong."""
        emotion, text, *_ = cells(row, self.columns)
        if emotion not in map(str, range(len(FER2013_CODES))):
            raise BadPicture(f"emotion {quote(emotion)}, expected a code from 0 to {len(FER2013_CODES) - 1}")
        values = text.split()
        if len(values) != SIDE * SIDE:
            raise BadPicture(f"{counted(len(values), 'pixel')}, expected {SIDE * SIDE:,}")
        try:
            image = encode(Image.frombytes("L", (SIDE, SIDE), bytes(map(int, values))))
        except ValueError:
            raise BadPicture("a pixel is no whole number from 0 to 255") from None
        return Picture(number, f"row {number}", image, FER2013_CODES[int(emotion)])


def _in_test(name: str) -> bool:
    return name.lower().startswith("test/")


def _usage(name: str) -> str | None:
    """The split that a file's prefix (PublicTest_123.jpg) tells, if any."""
    prefix, separator, _ = base(name).lower().partition("_")
    return USAGES.get(prefix) if separator else None


def _label(folder: str) -> str | None:
    """The class that a folder's name means, if it is one of the seven."""
    label = canonical(folder)
    return label if label in SEVEN else None
