"""Tables, lists and class folders of data sets: read in bounded memory, and joined to the pictures they speak of."""

from __future__ import annotations

import csv
import functools
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, TypeVar

from data_pipelines.builders.base import BadPicture, Picture, Skipped, Split
from data_pipelines.common.errors import DataError
from data_pipelines.sources import Source

#: No true line is longer: a row of fer2013.csv has at most 9,300 characters.
LONGEST_LINE = 1 << 20

#: What a split is made of: path at the source -> (order, name, label). Only names, never pictures.
Wanted = dict[str, tuple[int, str, str]]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_SHOWN = 12  # column names that a message lists
_READABLE = 80  # characters of a user's text that a message quotes

_Row = TypeVar("_Row")


def quote(text: str) -> str:
    """A user's text for a message: in quotes, on one line, of bounded length."""
    return repr(text if len(text) <= _READABLE else text[:_READABLE] + "...")


def is_picture(name: str) -> bool:
    """Whether a file's name ends like that of a picture; what it truly holds shows when it is decoded."""
    return name.lower().endswith(_SUFFIXES)


def find(names: Iterable[str], bases: Sequence[str]) -> list[str]:
    """The files whose name without folders, in lower case, is one of `bases`; the least deep first."""
    found = [name for name in names if name.rpartition("/")[2].lower() in bases]
    return sorted(found, key=lambda name: (name.count("/"), name))


def read_lines(stream: IO[bytes]) -> Iterator[str | csv.Error]:
    """Lines of a UTF-8 text, blank ones left out; one longer than LONGEST_LINE comes as an error, once."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace")
    for line in iter(functools.partial(text.readline, LONGEST_LINE), ""):
        if len(line) < LONGEST_LINE or line.endswith("\n"):
            if line := line.strip("\n"):
                yield line
            continue
        while (rest := text.readline(LONGEST_LINE)) and not rest.endswith("\n"):
            pass
        yield csv.Error(f"a line of more than {LONGEST_LINE:,} characters")


def read_rows(stream: IO[bytes], separators: str = ",") -> Iterator[list[str] | csv.Error]:
    """Rows of a CSV, one a line, blank lines left out; a row that cannot be parsed comes as its error.

    Of several `separators` the one holds that the first line has most of.
    A line break inside quotes ends the row: no table of pictures needs one, and so a stray quote costs one row, not
    all that follow.
    """
    separator = ""
    for line in read_lines(stream):
        if isinstance(line, csv.Error):
            yield line
            continue
        separator = separator or max(separators, key=line.count)
        try:
            row = next(csv.reader([line], delimiter=separator), [])
        except csv.Error as error:
            yield error
        else:
            if any(row):
                yield row


def columns(heads: Sequence[str] | csv.Error, wanted: Sequence[str], where: str) -> dict[str, int]:
    """The number of each `wanted` column (lower case) in a header, whatever its case and the blanks around it.

    Raises DataError, which begins with `where` and lists what is there, if one is missing.
    """
    if isinstance(heads, csv.Error):
        raise DataError(f"{where}: its header is no valid CSV ({heads})")
    numbers: dict[str, int] = {}
    for number, head in enumerate(heads):
        numbers.setdefault(head.strip().lower(), number)
    missing = [name for name in wanted if name not in numbers]
    if missing:
        there = ", ".join(map(quote, heads[:_SHOWN])) + (", ..." if len(heads) > _SHOWN else "")
        raise DataError(f"{where}: no column {', '.join(missing)}; its header has: {there or 'nothing'}")
    return {name: numbers[name] for name in wanted}


def cells(row: list[str] | csv.Error, numbers: Mapping[str, int]) -> list[str]:
    """The row's cells in the columns `numbers`, in that order, without blanks around them.

    Raises BadPicture if the row is damaged or too short.
    """
    if isinstance(row, csv.Error):
        raise BadPicture(f"no valid CSV ({row})")
    if len(row) <= max(numbers.values()):
        raise BadPicture(f"has {len(row)} columns, expected {max(numbers.values()) + 1}")
    return [row[number].strip() for number in numbers.values()]


def match(
    skipped: Skipped,
    table: str,
    rows: Iterable[_Row],
    read: Callable[[_Row], tuple[str, str] | None],
    files: Mapping[str, str],
) -> Wanted:
    """Joins a table's rows to the pictures that they name; rows are counted from 0, without the header.

    Args:
        skipped: takes every row that cannot be used; the table, once, where that is all of them.
        table: name of the table, for people.
        rows: what the table has after its header.
        read: a row's (name of the picture, label), or None for a row to leave out; raises BadPicture.
        files: name of a picture as the table has it -> its path. A name that is no key of it names no picture, so
            no row can reach a file outside the source.
    """
    wanted: Wanted = {}
    bad: list[tuple[str, str]] = []
    for number, row in enumerate(rows):
        try:
            if (found := read(row)) is None:
                continue
            name, label = found
            if name not in files:
                raise BadPicture(f"its picture {quote(name)} is not there")
            if files[name] in wanted:
                raise BadPicture(f"names the picture {quote(name)} a second time")
        except BadPicture as error:
            bad.append((f"{table} row {number}", str(error)))
        else:
            wanted[files[name]] = (number, name, label)
    report(skipped, table, wanted, bad)
    return wanted


def report(skipped: Skipped, where: str, wanted: Mapping[str, object], bad: list[tuple[str, str]]) -> None:
    """Hands on what is `bad` as [(path, why)]: each entry, or one for all where nothing else is there."""
    if bad and not wanted:
        path, why = bad[0]
        bad = [(where, f"nothing to use among {len(bad):,} (the first: {path}: {why})")]
    for path, why in bad:
        skipped.add(path, why)


def stream(source: Source, wanted: Wanted) -> Iterator[Picture]:
    """The pictures of a split, one at a time, in the source's own order."""
    for path, data in source.read(wanted):
        order, name, label = wanted[path]
        yield Picture(order, name, data, label)


def make_splits(
    source: Source,
    skipped: Skipped,
    wanted: Mapping[str, Wanted],
    pictures: Callable[[Source, Wanted], Iterator[Picture]] = stream,
) -> dict[str, Split]:
    """The splits that have a picture. Raises DataError, with the first thing skipped, if none has."""
    splits = {
        split: Split(len(some), functools.partial(pictures, source, some)) for split, some in wanted.items() if some
    }
    if not splits:
        first = "".join(" ({path}: {why})".format(**entry) for entry in skipped.entries[:1])
        raise DataError(
            f"{source.path}: no usable picture{first}; put it right, or give what has both labels and pictures"
        )
    return splits


def absent(splits: Iterable[str], official: Sequence[str]) -> list[str]:
    """A note on the official splits that are not among `splits`."""
    missing = [split for split in official if split not in splits]
    return [f"not in this copy: {', '.join(missing)}"] if missing else []


def unused(names: Iterable[str], used: Mapping[str, object], why: str) -> list[str]:
    """A note on the pictures of `names` that are no key of `used`."""
    left = [name for name in names if name not in used]
    return [f"{len(left):,} pictures {why} and were not used, for example {left[0]}"] if left else []


def class_folders(
    names: Iterable[str],
    splits: Mapping[str, str],
    label_of: Callable[[str], str | None],
    known: str,
    where: str,
) -> dict[str, Wanted] | None:
    """Pictures at <split>/<class>/<file> under one root, by split; None if there are no such paths.

    Args:
        names: the source's files, sorted; of several roots the one with the most pictures in known classes counts.
        splits: split folder in lower case -> split.
        label_of: class folder -> label, None for an unknown one.
        known: the class folders there may be, in words.
        where: the source, for messages.

    Raises DataError that names the first unknown class folder.
    """
    parts = (f"/{name}".rsplit("/", 3) for name in names if is_picture(name))
    placed = [part for part in parts if len(part) == 4 and part[1].lower() in splits]
    if not placed:
        return None
    votes = Counter({root: 0 for root, *_ in placed})
    votes.update(root for root, _, folder, _ in placed if label_of(folder))
    best = max(sorted(votes), key=votes.__getitem__)
    prefix = f"{best}/"[1:]
    found: dict[str, Wanted] = {split: {} for split in splits.values()}
    for order, (_, split, folder, file) in enumerate(part for part in placed if part[0] == best):
        label = label_of(folder)
        if label is None:
            path = f"{prefix}{split}/{folder}"
            raise DataError(f"{where}: unknown class folder {quote(path)}; known: {known}")
        name = f"{split}/{folder}/{file}"
        found[splits[split.lower()]][prefix + name] = (order, name, label)
    return {split: wanted for split, wanted in found.items() if wanted}
