"""FER+: ten people's votes on each picture of FER-2013, joined with the pictures."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.builders import tables
from data_pipelines.builders.base import BadPicture, FaceBuilder, Picture, Plan, Split
from data_pipelines.builders.fer2013 import USAGES, PixelTable
from data_pipelines.builders.tables import cells, columns, find, quote, read_rows
from data_pipelines.common.errors import DataError
from data_pipelines.labels import EMOTIONS
from data_pipelines.sources import Source

_VOTES = "fer2013new.csv"
_TABLES = ("fer2013.csv", "icml_face_data.csv")
_FOLDERS = {"train": "FER2013Train", "public_test": "FER2013Valid", "private_test": "FER2013Test"}
_SPLIT_OF_FOLDER = {folder.lower(): split for split, folder in _FOLDERS.items()}

_CHOICES = (*EMOTIONS, "unknown", "nf")  # what people could vote for; NF: not a face
_VOTERS = 10

_EXPECTED = (
    f"{_VOTES} beside the pictures of FER-2013, which are {', '.join(_TABLES)} or PNG files in folders "
    f"{'/, '.join(_FOLDERS.values())}/"
)


def majority(votes: Sequence[int]) -> int | None:
    """The place of the majority in the votes on one picture, None if there is none.

    A single vote for something counts as a slip and is dropped. The majority is what more than half of the remaining
    votes are for, where votes for unknown and for NF count like all others; so a tie never is one. This is the mode
    "majority" of the authors' program (github.com/microsoft/FERPlus, src/ferplus.py) for Barsoum, Zhang, Canton Ferrer
    and Zhang 2016, arXiv 1608.01041, which leaves out pictures without a majority, and with one for unknown or NF.
    """
    kept = [number if number > 1 else 0 for number in votes]
    most = max(kept)
    return kept.index(most) if 2 * most > sum(kept) else None


def protocol(splits: set[str]) -> str:
    """What results on these splits of FER+ may be compared with."""
    if "private_test" in splits:
        rest = "; choose models on public_test" if "public_test" in splits else ""
        return (
            "Accuracy on private_test may be compared with published FER+ results for eight classes by majority vote, "
            f"not with FER-2013 results, whose labels differ{rest}."
        )
    if "public_test" in splits:
        return "public_test is the validation part of FER+: compare only with published validation results of FER+."
    return "There are only training pictures: no result on them may be compared with published ones."


@dataclasses.dataclass(frozen=True)
class _Voted:
    """A picture with a majority for an emotion."""

    number: int  # of the row, from 0
    split: str
    image: str  # the column "Image name"
    label: str
    votes: tuple[int, ...]  # in the order of EMOTIONS

    def picture(self, name: str, image: bytes) -> Picture:
        """The picture as it is stored."""
        return Picture(self.number, name, image, self.label, extra={"votes": np.array(self.votes, np.float32)})


@dataclasses.dataclass
class _Votes:
    """fer2013new.csv, as far as it can be used."""

    name: str
    splits: list[str | None] = dataclasses.field(default_factory=list)  # of every row, None where it cannot be told
    voted: list[_Voted] = dataclasses.field(default_factory=list)
    images: dict[str, int] = dataclasses.field(default_factory=dict)  # every Image name in lower case: its row
    unused: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)  # split: {why: number}

    def place(self, number: int) -> str:
        """A row of the table, for people."""
        return f"{self.name} row {number}"

    def notes(self, splits: set[str]) -> list[str]:
        """One line for each split: how many rows have no majority label, and why."""
        totals = Counter(self.splits)
        return [
            f"{split}: {counts.total():,} of {totals[split]:,} rows not used: "
            + ", ".join(f"{number:,} {why}" for why, number in sorted(counts.items()))
            for split, counts in sorted(self.unused.items(), key=lambda item: list(_FOLDERS).index(item[0]))
            if split in splits
        ]


class FerPlus(FaceBuilder):
    """FER+: FER-2013's pictures in eight classes, labelled by the majority of ten people (Barsoum et al. 2016).

    `label` is what `majority` says; pictures without a majority for an emotion are left out, and counted in a note.
    `votes` (8,) are the numbers of votes for the classes, in their order, from 0 to 10, single votes included; votes
    for unknown and NF (not a face) are left out, so that their sum may be less than 10.
    """

    name = "ferplus"
    CLASSES = EMOTIONS
    EXTRA_FEATURES: ClassVar[dict[str, Any]] = {"votes": tfds.features.Tensor(shape=(len(EMOTIONS),), dtype=np.float32)}
    WHERE_TO_GET_IT = (
        "fer2013new.csv from github.com/microsoft/FERPlus, and the pictures of FER-2013: "
        'ask Kaggle for "FER-2013" or for the ICML 2013 challenge in representation learning'
    )

    def plan(self, source: Source | None) -> Plan:
        """Reads all votes and finds the pictures; where they are there twice, the CSV with the pixels is taken.

        Raises DataError if one of the two is missing, or the rows of the two tables do not belong together.
        """
        assert source is not None
        names = source.names()
        found = find(names, (_VOTES,))
        if not found:
            raise DataError(f"{source.path}: no {_VOTES}; expected {_EXPECTED}")
        votes = self._read_votes(source, found[0])
        folders = _find_folders(names)
        pixel_tables = find(names, _TABLES)
        for name in pixel_tables:
            table = PixelTable.open(source, name)
            if table and "usage" in table.columns:
                notes = [f"chose {name}; also there, not used: folders of PNG files"] if any(folders.values()) else []
                return self._plan_table(source, votes, table, notes)
        if not any(folders.values()):
            heads = f" ({', '.join(pixel_tables)}: no columns emotion, pixels and Usage)" if pixel_tables else ""
            raise DataError(f"{source.path}: no pictures beside {_VOTES}{heads}; expected {_EXPECTED}")
        return self._plan_folders(source, votes, folders)

    def _read_votes(self, source: Source, name: str) -> _Votes:
        votes = _Votes(_base(name))
        with source.open(name) as stream:
            rows = read_rows(stream)
            numbers = columns(next(rows, []), ("usage", "image name", *_CHOICES), f"{source.path}: {name}")
            for number, row in enumerate(rows):
                votes.splits.append(None)
                try:
                    self._add_row(votes, number, cells(row, numbers))
                except BadPicture as error:
                    self.skipped.add(votes.place(number), str(error))
        if not votes.voted:
            raise DataError(
                f"{source.path}: {name} has no row with a majority for an emotion among {len(votes.splits):,}"
            )
        return votes

    @staticmethod
    def _add_row(votes: _Votes, number: int, row: list[str]) -> None:
        """Raises BadPicture if the row cannot be understood, or repeats another."""
        usage, image, *texts = row
        if usage.lower() not in USAGES:
            raise BadPicture(f"unknown Usage {quote(usage)}, expected Training, PublicTest or PrivateTest")
        split = USAGES[usage.lower()]
        votes.splits[number] = split
        numbers = [_number(text, choice) for text, choice in zip(texts, _CHOICES, strict=True)]
        before = votes.images.setdefault(image.lower(), number) if image else number
        if before != number:
            raise BadPicture(f"{quote(image)} has its votes in row {before} already")
        winner = majority(numbers)
        if image and winner is not None and winner < len(EMOTIONS):
            voted = _Voted(number, split, image, EMOTIONS[winner], tuple(numbers[: len(EMOTIONS)]))
            votes.voted.append(voted)
        else:
            votes.unused.setdefault(split, Counter())[_why_unused(image, winner)] += 1

    def _plan_table(self, source: Source, votes: _Votes, table: PixelTable, notes: list[str]) -> Plan:
        damaged = set()
        count = 0
        for number, row in table.rows(source):
            count += 1
            try:
                split = table.split_of(row)
            except BadPicture as error:
                damaged.add(number)
                self.skipped.add(f"{_base(table.name)} row {number}", str(error))
                continue
            theirs = votes.splits[number] if number < len(votes.splits) else None
            if theirs not in (None, split):
                raise DataError(
                    f"{source.path}: row {number} is {split} in {table.name} and {theirs} in {votes.name}: the tables "
                    "are joined by row, so both must be complete and in their first order"
                )
        if count != len(votes.splits):
            raise DataError(
                f"{source.path}: {table.name} has {count:,} rows and {votes.name} {len(votes.splits):,}: the tables "
                "are joined by row, so both must be complete and in their first order"
            )
        wanted: dict[str, dict[int, _Voted]] = {split: {} for split in _FOLDERS}
        for voted in votes.voted:
            if voted.number not in damaged:
                wanted[voted.split][voted.number] = voted
        splits = {
            split: Split(len(rows), functools.partial(self._table_pictures, source, table, rows))
            for split, rows in wanted.items()
            if rows
        }
        return _plan(f"{votes.name} with {table.layout}", splits, votes, notes)

    def _table_pictures(self, source: Source, table: PixelTable, wanted: dict[int, _Voted]) -> Iterator[Picture]:
        for number, row in table.rows(source):
            if number in wanted:
                try:
                    image = table.picture(number, row).image
                except BadPicture as error:
                    self.skipped.add(f"{_base(table.name)} row {number}", str(error))
                else:
                    yield wanted[number].picture(f"row {number}", image)

    def _plan_folders(self, source: Source, votes: _Votes, folders: dict[str, dict[str, str]]) -> Plan:
        wanted: dict[str, dict[str, _Voted]] = {split: {} for split in folders}
        for voted in votes.voted:
            files = folders[voted.split]
            if voted.image.lower() in files:
                wanted[voted.split][files[voted.image.lower()]] = voted
            elif files:  # a folder that is not there at all is one note
                why = f"no {quote(voted.image)} in {_FOLDERS[voted.split]}/"
                self.skipped.add(votes.place(voted.number), why)
        splits = {
            split: Split(len(pictures), functools.partial(self._folder_pictures, source, pictures))
            for split, pictures in wanted.items()
            if pictures
        }
        if not splits:
            raise DataError(
                f"{source.path}: none of the {len(votes.voted):,} pictures that {votes.name} labels is there"
            )
        strangers = (path for files in folders.values() for file, path in files.items() if file not in votes.images)
        notes = tables.unused(strangers, {}, f"have no row in {votes.name}")
        return _plan(f"{votes.name} with folders", splits, votes, notes)

    def _folder_pictures(self, source: Source, wanted: dict[str, _Voted]) -> Iterator[Picture]:
        for path, data in source.read(wanted):
            yield wanted[path].picture("/".join(path.split("/")[-2:]), data)


def _plan(layout: str, splits: dict[str, Split], votes: _Votes, notes: list[str]) -> Plan:
    notes = notes + votes.notes(set(splits)) + tables.absent(splits, tuple(_FOLDERS))
    return Plan(layout, protocol(set(splits)), splits, notes)


def _why_unused(image: str, winner: int | None) -> str:
    if not image:
        return "without a picture (no face)"
    if winner is None:
        return "without a majority"
    return f"with a majority for {'unknown' if _CHOICES[winner] == 'unknown' else 'not a face'}"


def _number(text: str, choice: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 2 and int(text) <= _VOTERS):
        raise BadPicture(f"{choice} has {quote(text)} votes, expected a whole number from 0 to {_VOTERS}")
    return int(text)


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _find_folders(names: list[str]) -> dict[str, dict[str, str]]:
    """Split -> {file name in lower case: path} of the PNG files in FER2013{Train,Valid,Test}."""
    found: dict[str, dict[str, str]] = {split: {} for split in _FOLDERS}
    for name in sorted(names, key=lambda name: name.count("/")):
        _, _, rest = f"/{name}".rpartition("/")
        folder = _base(name.rpartition("/")[0]).lower()
        if folder in _SPLIT_OF_FOLDER and rest.lower().endswith(".png"):
            found[_SPLIT_OF_FOLDER[folder]].setdefault(rest.lower(), name)
    return found
