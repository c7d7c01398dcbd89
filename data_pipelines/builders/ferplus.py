"""FER+: ten people's votes on each picture of FER-2013, joined with the pictures."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.builders import readers
from data_pipelines.builders.base import FaceBuilder, Picture, Plan, PlannedSplit, unused
from data_pipelines.builders.pixel_tables import OFFICIAL, USAGES, PixelTable, split_of_usage
from data_pipelines.builders.readers import base, cells, quote
from data_pipelines.common.errors import DataError
from data_pipelines.common.text import counted
from data_pipelines.labels import EMOTIONS
from data_pipelines.pictures import BadPicture
from data_pipelines.sources import Source

_VOTES, _LABELS = "fer2013new.csv", "label.csv"
_TABLES = ("fer2013.csv", "icml_face_data.csv")
_FOLDERS = dict(zip(OFFICIAL, ("FER2013Train", "FER2013Valid", "FER2013Test"), strict=True))

_CHOICES = (*EMOTIONS, "unknown", "nf")  # what people could vote for; NF: not a face

#: The cells of a row of label.csv, which has no header: a picture, the box of its face, and votes in this order.
_LABELS_COLUMNS = (
    "image name", "box", "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt",
    "unknown", "nf",
)  # fmt: skip

_EXPECTED = (
    f"{_VOTES} beside the pictures of FER-2013, which are {', '.join(_TABLES)} or PNG files in folders "
    f"{'/, '.join(_FOLDERS.values())}/, or a {_LABELS} in each of these folders"
)
#: As `fer2013._PROTOCOLS`.
_PROTOCOLS = {
    "private_test": (
        "Accuracy on private_test may be compared with published FER+ results for eight classes by majority vote, not "
        "with FER-2013 results, whose labels differ"
    ),
    "public_test": "public_test is the validation part of FER+: compare only with published validation results of FER+",
}


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


@dataclasses.dataclass
class _Votes:
    """fer2013new.csv, as far as it can be used."""

    name: str
    splits: list[str | None] = dataclasses.field(default_factory=list)  # of every row, None where it cannot be told
    #: Split -> number of a row: its picture, named as in the column "Image name". Only those with a majority.
    pictures: dict[str, dict[int, Picture]] = dataclasses.field(default_factory=lambda: {s: {} for s in OFFICIAL})
    images: dict[str, int] = dataclasses.field(default_factory=dict)  # every Image name in lower case: its row
    unused: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)  # split: {why: number}

    def add(self, number: int, row: list[str]) -> None:
        """Takes the cells of a row. Raises BadPicture if they cannot be understood, or repeat another row's."""
        usage, image, *texts = row
        split = self.splits[number] = split_of_usage(usage)
        for text, choice in zip(texts, _CHOICES, strict=True):
            if not re.fullmatch("0?[0-9]|10", text):
                raise BadPicture(f"{choice} has {quote(text)} votes, expected a whole number from 0 to 10")
        numbers = [int(text) for text in texts]
        before = self.images.setdefault(image.lower(), number) if image else number
        if before != number:
            raise BadPicture(f"{quote(image)} has its votes in row {before} already")
        winner = majority(numbers)
        if not image:
            why = "without a picture (no face)"
        elif winner is None:
            why = "without a majority"
        elif winner >= len(EMOTIONS):
            why = f"with a majority for {'unknown' if _CHOICES[winner] == 'unknown' else 'not a face'}"
        else:
            extra = {"votes": np.array(numbers[: len(EMOTIONS)], np.float32)}
            self.pictures[split][number] = Picture(number, image, b"", EMOTIONS[winner], extra)
            return
        self.unused.setdefault(split, Counter())[why] += 1

    def notes(self, splits: Mapping[str, object]) -> list[str]:
        """One line for each split: how many rows have no majority label, and why."""
        totals = Counter(self.splits)
        return [
            f"{split}: {self.unused[split].total():,} of {counted(totals[split], 'row')} not used: "
            + ", ".join(f"{number:,} {why}" for why, number in sorted(self.unused[split].items()))
            for split in OFFICIAL
            if split in splits and split in self.unused
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

    def plan(self, source: Source) -> Plan:
        """Reads all votes and finds the pictures; where they are there twice, the CSV with the pixels is taken."""
        names = source.names()
        found = readers.find(names, (_VOTES,))
        folders = _find_folders(names)
        if not found:
            if labels := _find_labels(names):
                return self._plan_folders(source, self._read_labels(source, labels), folders)
            raise DataError(f"{source.path}: no {_VOTES}; expected {_EXPECTED}")
        votes = self._read_votes(source, found[0])
        pixel_tables = readers.find(names, _TABLES)
        for path in pixel_tables:
            table = PixelTable.open(source, path)
            if table and "usage" in table.columns:
                others = ["folders of PNG files"] if any(folders.values()) else []
                source.accounted.update(path for files in folders.values() for path in files.values())
                return self._plan_table(source, votes, table, readers.chose(path, *others))
        if not any(folders.values()):
            heads = f" ({', '.join(pixel_tables)}: no columns emotion, pixels and Usage)" if pixel_tables else ""
            raise DataError(f"{source.path}: no pictures beside {_VOTES}{heads}; expected {_EXPECTED}")
        return self._plan_folders(source, votes, folders)

    def _read_votes(self, source: Source, path: str) -> _Votes:
        votes = _Votes(base(path))
        columns, rows = readers.open_table(source, path, ("usage", "image name", *_CHOICES))
        for number, row in enumerate(rows):
            votes.splits.append(None)
            try:
                votes.add(number, cells(row, columns))
            except BadPicture as error:
                self.skipped.add(f"{votes.name} row {number}", str(error))
        return _checked(votes, f"{source.path}: {path}")

    def _read_labels(self, source: Source, labels: Mapping[str, str]) -> _Votes:
        """The votes in the folders of the set that the authors' program makes, and reads again.

        Rows are counted through all of them. Those without a picture are not there.
        """
        votes = _Votes(_LABELS)
        columns = {column: _LABELS_COLUMNS.index(column) for column in ("image name", *_CHOICES)}
        for split, path in labels.items():
            usage = next(usage for usage, meant in USAGES.items() if meant == split)
            for number, row in enumerate(readers.read_rows(source, path)):
                votes.splits.append(None)
                try:
                    votes.add(len(votes.splits) - 1, [usage, *cells(row, columns)])
                except BadPicture as error:
                    self.skipped.add(f"{path} row {number}", str(error))
        return _checked(votes, f"{source.path}: {', '.join(labels.values())}")

    def _plan_table(self, source: Source, votes: _Votes, table: PixelTable, notes: list[str]) -> Plan:
        together = "the tables are joined by row, so both must be complete and in their first order"
        wanted = {split: dict(pictures) for split, pictures in votes.pictures.items()}
        number = -1
        for number, row in table.rows(source):
            theirs = votes.splits[number] if number < len(votes.splits) else None
            try:
                split = table.split_of(row)
            except BadPicture as error:
                for part in wanted.values():
                    part.pop(number, None)
                self.skipped.add(f"{base(table.path)} row {number}", str(error))
                continue
            if theirs not in (None, split):
                both = f"{split} in {table.path} and {theirs} in {votes.name}"
                raise DataError(f"{source.path}: row {number} is {both}: {together}")
        if number + 1 != len(votes.splits):
            both = f"{table.path} has {counted(number + 1, 'row')} and {votes.name} {len(votes.splits):,}"
            raise DataError(f"{source.path}: {both}: {together}")

        def pictures(source: Source, rows: dict[int, Picture]) -> Iterator[Picture]:
            for found in table.pictures(source, rows, self.skipped, base(table.path)):
                yield dataclasses.replace(rows[found.order], name=found.name, image=found.image)

        splits = readers.make_splits(source, self.skipped, wanted, OFFICIAL, pictures)
        return _plan(f"{votes.name} with {table.layout}", splits, votes, notes)

    def _plan_folders(self, source: Source, votes: _Votes, folders: dict[str, dict[str, str]]) -> Plan:
        wanted: dict[str, readers.Wanted] = {split: {} for split in OFFICIAL}
        for split, files in folders.items():
            for number, picture in votes.pictures[split].items() if files else ():  # a missing folder is one note
                if path := files.get(picture.name.lower()):
                    wanted[split][path] = dataclasses.replace(picture, name="/".join(path.split("/")[-2:]))
                else:
                    where = picture.name if votes.name == _LABELS else f"row {number}"
                    self.skipped.add(f"{votes.name} {where}", f"no {quote(picture.name)} in {_FOLDERS[split]}/")
        splits = readers.make_splits(source, self.skipped, wanted, OFFICIAL)
        strangers = [path for files in folders.values() for file, path in files.items() if file not in votes.images]
        source.accounted.update(path for files in folders.values() for path in files.values())  # votes.notes count rows
        notes = unused(source, strangers, "picture", f" without a row in {votes.name}")
        return _plan(f"{votes.name} with folders", splits, votes, notes)


def _plan(layout: str, splits: dict[str, PlannedSplit], votes: _Votes, notes: list[str]) -> Plan:
    notes = notes + votes.notes(splits) + readers.absent(splits, OFFICIAL)
    return Plan(layout, readers.protocol(splits, _PROTOCOLS), splits, notes)


def _checked(votes: _Votes, where: str) -> _Votes:
    """Raises DataError, which begins with `where`, for votes that give no picture a label."""
    if not any(votes.pictures.values()):
        raise DataError(f"{where}: no row with a majority for an emotion among {len(votes.splits):,}")
    return votes


def _find_labels(names: list[str]) -> dict[str, str]:
    """Split -> path of the label.csv in FER2013{Train,Valid,Test}, in any case."""
    found = {base(path.rpartition("/")[0]).lower(): path for path in reversed(readers.find(names, (_LABELS,)))}
    return {split: found[folder.lower()] for split, folder in _FOLDERS.items() if folder.lower() in found}


def _find_folders(names: list[str]) -> dict[str, dict[str, str]]:
    """Split -> {file name in lower case: path} of the PNG files in FER2013{Train,Valid,Test}."""
    found: dict[str, dict[str, str]] = {split: {} for split in OFFICIAL}
    by_folder = {folder.lower(): found[split] for split, folder in _FOLDERS.items()}
    for name in sorted(names, key=lambda name: name.count("/")):
        folder, _, file = name.lower().rpartition("/")
        if base(folder) in by_folder and file.endswith(".png"):
            by_folder[base(folder)].setdefault(file, name)
    return found
