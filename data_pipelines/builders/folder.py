"""Anybody's own pictures: in folders named after their classes, or listed in a table."""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import posixpath
import re
import shlex
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

from data_pipelines.builders import codes, readers
from data_pipelines.builders.arrow_tables import ArrowTables
from data_pipelines.builders.base import FaceBuilder, Picture, Plan, unused
from data_pipelines.builders.readers import Row, Wanted, cells, quote
from data_pipelines.common.errors import DataError
from data_pipelines.labels import EMOTIONS, canonical, near
from data_pipelines.pictures import BadPicture
from data_pipelines.sources import OTHER_SUFFIXES, SUFFIXES, TABLE_SUFFIXES, Source

#: What people call the splits, in lower case, and what they are called here.
SPLITS = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "publictest": "validation",
    "test": "test", "testing": "test", "privatetest": "test",
}  # fmt: skip
_ORDER = ("train", "validation", "test")

# What is a picture to somebody who looks at its name. Some are of a kind that is not read (GIF, HEIC, AVIF): they count
# as pictures, so that each is skipped by name instead of vanishing among the other files.
_SUFFIXES = (*SUFFIXES, *OTHER_SUFFIXES)

_HEADS = {
    "path": ("path", "image", "file", "filename", "pth"),
    "label": ("label", "emotion", "class", "expression"),
    "split": ("split", "usage", "set"),
}

_EXPECTED = (
    "folders <split>/<class>/, <class>/<split>/ or <class>/, or a CSV with columns path, label and perhaps split, or "
    f"Parquet or Arrow files with pictures; classes: {', '.join(EMOTIONS)}, or two or more of your own; splits: "
    f"{', '.join(SPLITS)}"
)
_KNOWN = f"known: {', '.join(EMOTIONS)}, or a usual spelling of these"
_NUMBER = re.compile(r"[-+]?\d+([.,]\d*)?")
_LONGEST_CLASS = 100  # letters
_MOST_CLASSES = 1000  # more are hardly classes, but the wrong column of a table


class Folder(FaceBuilder):
    """Pictures of your own, by class folders, with split folders above or below them, or by a table.

    A table is a CSV of path, label and perhaps split beside the pictures, or Hugging Face's files with pictures inside.

    A table with these columns beside the folders wins: where it and a class folder differ, the table is right. Classes
    are the emotions, in any usual spelling, or, where one is no emotion, your own, as you write them. Numbers are
    refused without `codes`, because they mean different classes in different data sets.
    """

    CLASSES = EMOTIONS
    TAKES_CODES = True
    WHERE_TO_GET_IT = "these are your own pictures, in folders named after their classes or listed in a CSV"

    def plan(self, source: Source) -> Plan:
        """Recognises a table at the top, or class folders, perhaps inside another folder."""
        files = _Files.of(source.names())
        if files.names == [source.path.name] and source.path.name.lower().endswith(TABLE_SUFFIXES):
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
            raise type(error)(f"{error}{why}") from None

    def _plan_folders(self, source: Source, files: _Files, notes: list[str]) -> Plan:
        """Class folders outside the split folders are the training split, unless there is one already."""
        parts = {name: _split_first(name) for name in files.pictures()}
        inside = {name for name, path in parts.items() if len(path) > 2 and path[0].lower() in SPLITS}
        has_train = any(SPLITS[parts[name][0].lower()] == "train" for name in inside)
        found: list[tuple[str, str, str]] = []  # name, split, class folder
        aside, kinds = [], set()
        for name in files.names:
            first, *rest = parts.get(name, [""])
            if name in inside:
                split, folder = SPLITS[first.lower()], rest[0]
            elif rest and first.lower() not in SPLITS and not has_train:
                split, folder = "train", first
            else:
                aside.append(name)
                continue
            found.append((name, split, folder))
            below = "<split>/<class>" if name.startswith(f"{first}/") else "<class>/<split>"
            kinds.add(below if name in inside else "<class>")
        if not found:
            raise DataError(f"{source.path}: no pictures with classes recognised; expected {_EXPECTED}")
        texts: dict[str, str] = {}
        for name, _, folder in found:
            texts.setdefault(folder.strip(), f"{source.path}: class folder {quote(name.rpartition('/')[0])}")
        meanings = Meanings.of(texts, self.codes)
        wanted: dict[str, Wanted] = {}
        for order, (name, split, folder) in enumerate(found):
            label = meanings.labels[folder.strip()]
            wanted.setdefault(split, {})[files.prefix + name] = Picture(order, name, b"", label)
        why = " (hidden, no picture by name, or outside the class folders)"
        notes = notes + unused(source, files.hidden + aside, "file", why, files.prefix)
        layout = f"folders {' and '.join(sorted(kinds, reverse=True))}"
        return self._plan(source, layout, wanted, meanings, notes, "move about a tenth of each class to test/<class>/")

    def _plan_table(self, source: Source, files: _Files, table: str, columns: dict[str, int]) -> Plan:
        """Pictures by a table; where it has no split, the folders tell it, and else it is train."""
        known = {name: files.prefix + name for name in files.names}
        above = ("", files.prefix, f"{source.path.name}/")  # paths may begin above the table
        meanings = Meanings.of(_texts(source, files.prefix + table, columns["label"]), self.codes)

        def read(numbered: tuple[int, Row]) -> tuple[str, str, str]:
            number, row = numbered
            where = f"{source.path}: {table} row {number}"
            path, text, *told = cells(row, columns)
            name = _resolve(path, known, above)
            if "" in (text, *told):
                raise BadPicture(f"{quote(path)} has no {'split' if text else 'label'}")
            label = meanings.labels[text]
            folder = name.partition("/")[0]
            split = told[0] if told else folder if folder.lower() in SPLITS else "train"
            if split.lower() not in SPLITS:
                raise DataError(f"{where}: unknown split {quote(split)}; known: {', '.join(SPLITS)}")
            return name, label, SPLITS[split.lower()]

        rows = itertools.islice(readers.read_rows(source, files.prefix + table, readers.SEPARATORS), 1, None)
        wanted = readers.match(self.skipped, table, enumerate(rows), read, known)
        listed = {picture.name: picture.label for inside in wanted.values() for picture in inside.values()}
        labels = ((meanings.of_folder(name), label) for name, label in listed.items())
        notes = readers.beside(source, table, labels, [n for n in files.pictures() if n not in listed], files.prefix)
        if "split" not in columns:
            notes.append(f"{table} has no column split: folders train/, val/ and test/ tell the split, if any")
        way = f"write test into the column split of {table} for about a tenth of each class"
        return self._plan(source, f"table {table}", wanted, meanings, notes, way)

    def _plan_arrow(self, source: Source, arrow: ArrowTables, notes: list[str]) -> Plan:
        """Pictures inside Parquet or Arrow files."""
        found, more = arrow.wanted(source, self.skipped, SPLITS, str)  # their labels are still texts
        texts: dict[str, str] = {}
        for picture in itertools.chain.from_iterable(inside.values() for inside in found.values()):
            texts.setdefault(picture.label, f"{source.path}: {picture.name}")
        meanings = Meanings.of(texts, self.codes)
        wanted = {
            split: {
                number: dataclasses.replace(picture, label=meanings.labels[picture.label])
                for number, picture in inside.items()
            }
            for split, inside in found.items()
        }
        pictures = functools.partial(arrow.pictures, skipped=self.skipped)
        way = "write about a tenth of the rows of each class to a file test.parquet"
        return self._plan(source, f"{arrow.kind} files", wanted, meanings, notes + more, way, pictures)

    def _plan(
        self, source: Source, layout: str, wanted: Mapping[str, Any], meanings: Meanings, notes: list[str], way: str,
        pictures: Callable[[Source, Any], Iterator[Picture]] = readers.stream,
    ) -> Plan:  # fmt: skip
        notes = [*([codes.note(meanings.by_number, wanted)] if meanings.by_number else []), *notes]
        if meanings.classes:
            number, names = len(meanings.classes), shlex.quote(",".join(meanings.classes))
            setting = f"--config.data.name={self.name} --config.data.classes={names}"
            notes = [f"{number} classes of your own, in alphabetical order: train with {setting}", *notes]
        splits = readers.make_splits(source, self.skipped, wanted, _ORDER, pictures)
        protocol = "Your own data: compare only with results on the same files."
        if "test" not in splits:
            protocol += " There is no test split, so no result on them tells how well new pictures are recognised."
            notes = [*notes, f"there is no test split; to have one, {way}, and prepare again"]
        if "train" in splits and "validation" not in splits:
            notes = [*notes, "there is no validation split; training holds out a part of train"]
        return Plan(layout, protocol, splits, notes, classes=meanings.classes, numbered=bool(meanings.by_number))


@dataclasses.dataclass(frozen=True)
class Meanings:
    """What the labels of somebody's pictures, or the names of their folders, mean."""

    labels: dict[str, str]  # text as found, without blanks around it: its class
    classes: tuple[str, ...] = ()  # in their order, where they are not the emotions
    by_number: dict[int, str] = dataclasses.field(default_factory=dict)  # of the texts that are numbers

    @classmethod
    def of(cls, texts: Mapping[str, str], given: Sequence[str]) -> Meanings:
        """The emotions, if every text means one; else the texts themselves, whose case does not tell two apart.

        Texts come with the place where each was seen first, `given` are the classes in the order of the numbers.
        Raises DataError, which begins with that place, for a number of which nobody says what it means, for what seems
        to be an emotion misspelt, and for what is no name of a class.
        """
        numbers = {text: number for text in texts if (number := codes.number(text)) is not None}
        if unnamed := [text for text in texts if _NUMBER.fullmatch(text) and not (given and text in numbers)]:
            text = unnamed[0]
            why = "is a number, and numbers mean different classes in different data sets"
            way_out = "write names, or give them in the order of the numbers: --codes NAME,NAME,..."
            raise DataError(f"{texts[text]}: the label {quote(text)} {why}; {way_out}")
        by_number = codes.named(given, numbers.values()) if numbers else {}
        words = {text: by_number[numbers[text]] if text in numbers else text for text in texts}
        if all(canonical(word) for word in words.values()):
            emotions = {number: canonical(word) or word for number, word in by_number.items()}
            return cls({text: canonical(word) or word for text, word in words.items()}, by_number=emotions)
        _check_spelling({word: texts[text] for text, word in words.items()})
        spelling: dict[str, str] = {}
        for word in sorted({*words.values(), *by_number.values()}):
            spelling.setdefault(word.casefold(), word)
        labels = {text: spelling[word.casefold()] for text, word in words.items()}
        by_number = {number: spelling[word.casefold()] for number, word in by_number.items()}
        return cls(labels, tuple(sorted({*labels.values()})), by_number)

    def of_folder(self, name: str) -> str | None:
        """The class whose folder a picture lies in, if any: of several the innermost."""
        meaning = self.labels.get if self.classes else canonical
        return next(filter(None, map(meaning, reversed(name.split("/")[:-1]))), None)


def _split_first(name: str) -> list[str]:
    """The parts of a path; of <class>/<split>/<file> with the split before the class."""
    first, *rest = name.split("/")
    swap = len(rest) > 1 and rest[0].lower() in SPLITS and first.lower() not in SPLITS
    return [rest[0], first, *rest[1:]] if swap else [first, *rest]


def _check_spelling(words: Mapping[str, str]) -> None:
    """Raises DataError for classes, not all emotions, that nobody can mean; `words` come with their places."""
    unknown = [word for word in words if not canonical(word)]
    misspelt = {word: emotion for word in unknown if (emotion := near(word))}
    if misspelt and 2 * (len(words) - len(unknown) + len(misspelt)) > len(words):
        word, emotion = next(iter(misspelt.items()))
        raise DataError(f"{words[word]}: unknown class {quote(word)}; did you mean {emotion}? {_KNOWN}")
    for word, where in words.items():
        if not word or not word.isprintable() or len(word) > _LONGEST_CLASS:
            raise DataError(f"{where}: {quote(word)} is no name for a class; rename it")
    if len({word.casefold() for word in words}) < 2:
        word, where = next(iter(words.items()))
        raise DataError(f"{where}: unknown class {quote(word)}, the only one; {_KNOWN}, or two or more of your own")


def _texts(source: Source, table: str, column: int) -> dict[str, str]:
    """The labels in a column of a table, each with the first place. Raises DataError where they are no classes."""
    found: dict[str, str] = {}
    rows = itertools.islice(readers.read_rows(source, table, readers.SEPARATORS), 1, None)
    for number, row in enumerate(rows):
        if isinstance(row, list) and len(row) > column and (text := row[column].strip()):
            found.setdefault(text, f"{source.path}: {readers.base(table)} row {number}")
        if len(found) > _MOST_CLASSES:
            why = f"more than {_MOST_CLASSES:,} different labels in its first {number + 1:,} rows; are these classes?"
            raise DataError(f"{source.path}: {readers.base(table)} has {why}")
    return found


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
        return cls(prefix, *([name.removeprefix(prefix) for name in part] for part in (shown, hidden)))

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
        if "/" in name or not name.lower().endswith(TABLE_SUFFIXES):
            continue
        heads = next(readers.read_rows(source, files.prefix + name, readers.SEPARATORS), [])
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
