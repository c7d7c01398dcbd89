"""FER-2013's tables: a row has a picture, as the numbers of its pixels, a class, and perhaps a split."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import re
from collections.abc import Collection, Iterator

from data_pipelines.builders import pixels, readers
from data_pipelines.builders.base import Picture, Skipped
from data_pipelines.builders.readers import Row, cells, quote
from data_pipelines.common.text import counted
from data_pipelines.labels import FER2013_CODES, SEVEN, canonical
from data_pipelines.pictures import BadPicture
from data_pipelines.sources import Source, is_table

SIDE = 48

#: The challenge's words, in the CSV column Usage and as prefixes of file names, and the splits that they mean.
USAGES = {"training": "train", "publictest": "public_test", "privatetest": "private_test"}
#: What else people call the splits, as `readers.split_word` takes it. The word test alone does not say which one it is.
WORDS = USAGES | {
    "train": "train",
    "public": "public_test", "validation": "public_test", "valid": "public_test", "val": "public_test",
    "private": "private_test",
    "test": "test", "testing": "test",
}  # fmt: skip
OFFICIAL = tuple(USAGES.values())
_LOOKED_AT = 12  # tables whose name says nothing

CODES_IN_WORDS = ", ".join(f"{code} {label}" for code, label in enumerate(FER2013_CODES))

_HEADS = {
    "emotion": ("emotion", "emotions", "label", "labels", "class", "expression"),
    "pixels": ("pixels", "pixel"),
    "usage": ("usage", "split", "set"),
}


def split_of_usage(usage: str) -> str:
    """The split that one of the challenge's words means. Raises BadPicture."""
    if usage.lower() not in USAGES:
        raise BadPicture(f"unknown Usage {quote(usage)}, expected Training, PublicTest or PrivateTest")
    return USAGES[usage.lower()]


def split_of_word(word: str) -> str:
    """The split that any of WORDS means, "test" where it does not say which one. Raises BadPicture."""
    if split := readers.split_word(word, WORDS):
        return split
    raise BadPicture(f"unknown Usage {quote(word)}; known: {', '.join(WORDS)}")


def label_of(text: str) -> str:
    """The class that a code ("3", "3.0") or a name means. Raises BadPicture if it is none of FER-2013's seven."""
    if (label := label_of_code(text) or canonical(text)) in SEVEN:
        return label
    raise BadPicture(f"emotion {quote(text)}, expected a code from 0 to 6 or a name")


def label_of_code(text: str) -> str | None:
    """The class that one of FER-2013's codes means, if it is one."""
    code = re.fullmatch(r"([0-6])(\.0*)?", text)
    return FER2013_CODES[int(code[1])] if code else None


@dataclasses.dataclass(frozen=True)
class PixelTable:
    """A CSV with one picture a row, as text."""

    path: str
    layout: str
    columns: dict[str, int]  # emotion, pixels and perhaps usage -> column number

    @classmethod
    def open(cls, source: Source, path: str) -> PixelTable | None:
        """The table at `path` if its header is one of FER-2013's."""
        heads = header(source, path)
        if isinstance(heads, csv.Error):
            return None
        there = {head.strip().lower(): number for number, head in reversed([*enumerate(heads)])}
        columns = {}
        for column, spellings in _HEADS.items():
            if found := [there[spelling] for spelling in spellings if spelling in there]:
                columns[column] = found[0]
        if not {"emotion", "pixels"} <= columns.keys():
            return None
        layout = "train.csv"
        if "usage" in columns:
            layout = "icml_face_data.csv" if any(head != head.strip() for head in heads) else "fer2013.csv"
        return cls(path, layout, columns)

    def rows(self, source: Source) -> Iterator[tuple[int, Row]]:
        """All rows after the header, counted from 0 as FER+ counts them, one at a time."""
        return enumerate(itertools.islice(readers.read_rows(source, self.path, readers.SEPARATORS), 1, None))

    def emotion_of(self, row: Row) -> str:
        """What a row has in its column emotion. Raises BadPicture if the row is damaged."""
        return cells(row, self.columns)[0]

    def split_of(self, row: Row) -> str:
        """The split of a row, as `split_of_word`. Raises BadPicture if the row is damaged or its Usage unknown."""
        _, _, *usage = cells(row, self.columns)
        return split_of_word(usage[0]) if usage else "train"  # train.csv has no Usage

    def pictures(self, source: Source, wanted: Collection[int], skipped: Skipped, where: str = "") -> Iterator[Picture]:
        """The pictures of the rows `wanted`; one that cannot be used is `skipped`, as a row of `where`."""
        for number, row in self.rows(source):
            if number in wanted:
                try:
                    yield self.picture(number, row)
                except BadPicture as error:
                    skipped.add(f"{where} row {number}".lstrip(), str(error))

    def picture(self, number: int, row: Row) -> Picture:
        """The row as a PNG. Raises BadPicture if its emotion or its pixels are wrong."""
        emotion, text, *_ = cells(row, self.columns)
        label, values = label_of(emotion), pixels.from_text(text)
        if len(values) != SIDE * SIDE:
            raise BadPicture(f"{counted(len(values), 'pixel')}, expected {SIDE * SIDE:,}")
        return Picture(number, f"row {number}", pixels.png(values), label)


def header(source: Source, path: str) -> Row:
    """The first row of a table."""
    return next(readers.read_rows(source, path, readers.SEPARATORS), [])


def find(source: Source, names: list[str], first: tuple[str, ...]) -> tuple[list[PixelTable], list[str]]:
    """The tables of pixels with labels: those named as in `first`, then the least deep; and the other tables.

    Only the first few tables of any other name are looked at: an archive is read once for each.
    """
    found = [path for name in first for path in readers.find(names, (name,))]
    others = [name for name in names if is_table(name) and name not in found]
    if names == [source.path.name]:
        others = names  # somebody who gives one file means it, whatever its name
    others.sort(key=lambda name: (name.count("/"), name))
    opened = {path: PixelTable.open(source, path) for path in [*found, *others[:_LOOKED_AT]]}
    return [table for table in opened.values() if table], [path for path, table in opened.items() if not table]


def unlabelled(source: Source, path: str) -> bool:
    """Whether a table has pixels and no labels, as the challenge's test.csv."""
    heads = header(source, path)
    return not isinstance(heads, csv.Error) and any(head.strip().lower() in _HEADS["pixels"] for head in heads)
