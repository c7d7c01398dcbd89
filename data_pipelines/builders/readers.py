"""From the forms of a data set to rows of (picture, label, split): tables, lists and class folders, in bounded memory.

Each reader gives the pictures of a split as `Wanted`: their paths at the source with what is known of them. Their bytes
are read later, by `stream`, in the order that suits the source.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import functools
import gzip
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, TypeVar, cast

from data_pipelines.builders.base import Picture, PlannedSplit, Skipped, unused
from data_pipelines.common.errors import DataError
from data_pipelines.common.text import counted, first_of
from data_pipelines.pictures import BadPicture
from data_pipelines.sources import Source

#: No true line is longer: a row of fer2013.csv has at most 9,300 characters.
LONGEST_LINE = 1 << 20

#: The pictures of a split by their paths at the source, without their bytes.
Wanted = dict[str, Picture]
#: A row of a table, or why it cannot be read.
Row = list[str] | csv.Error

#: What tables of unknown kind part their columns with.
SEPARATORS = ",;\t"

_SHOWN = 12  # column names that a message lists
_READABLE = 80  # characters of a user's text that a message quotes

_Line = TypeVar("_Line")


def quote(text: str) -> str:
    """A user's text for a message: in quotes, on one line, of bounded length."""
    return repr(text if len(text) <= _READABLE else text[:_READABLE] + "...")


def base(path: str) -> str:
    """The name of a file without its folders."""
    return path.rpartition("/")[2]


def split_word(text: str, words: Mapping[str, str]) -> str:
    """The split that a word means by `words` {letters in lower case: split}, whatever its case and signs; or ""."""
    return words.get(re.sub("[^a-z]", "", text.lower()), "")


def split_of_path(path: str, words: Mapping[str, str]) -> str:
    """The split that a file's name tells, or else a word of it, or the folder that it is in; or "".

    So train-00000-of-00002.parquet, fer2013_test.csv and validation/data-00000-of-00001.arrow tell theirs.
    """
    folder, _, name = path.rpartition("/")
    stem = re.sub(r"-\d+-of-\d+$", "", name.partition(".")[0])
    return next(filter(None, (split_word(text, words) for text in (stem, *re.split(r"[\W_]", stem), base(folder)))), "")


def find(names: Iterable[str], bases: Sequence[str]) -> list[str]:
    """The files whose name without folders, in lower case, is one of `bases`; the least deep first."""
    return sorted((name for name in names if base(name).lower() in bases), key=lambda name: (name.count("/"), name))


def read_lines(source: Source, path: str) -> Iterator[str | csv.Error]:
    """Lines of a text, blank ones left out; one longer than LONGEST_LINE comes as an error, once.

    The text is UTF-8, or UTF-16 with its mark at the beginning; a path that ends with .gz is one compressed by gzip.
    """
    with source.open(path) as stream:
        if path.lower().endswith(".gz"):
            stream = cast("IO[bytes]", gzip.GzipFile(fileobj=stream))
        wide = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        stream.seek(0)
        text = io.TextIOWrapper(stream, encoding="utf-16" if wide else "utf-8-sig", errors="replace")
        for line in iter(functools.partial(text.readline, LONGEST_LINE), ""):
            if len(line) < LONGEST_LINE or line.endswith("\n"):
                if line := line.strip("\n"):
                    yield line
                continue
            while (rest := text.readline(LONGEST_LINE)) and not rest.endswith("\n"):
                pass
            yield csv.Error(f"a line of more than {LONGEST_LINE:,} characters")
    source.accounted.add(path)  # who looked at its head alone does not come here


def read_rows(source: Source, path: str, separators: str = ",") -> Iterator[Row]:
    """Rows of a CSV, one a line, the header first, blank lines left out; a row that cannot be parsed is its error.

    Of several `separators` the one counts that the first line has most of.
    A line break inside quotes ends the row: no table of pictures needs one, and so a stray quote costs one row, not
    all that follow.
    """
    separator = ""
    for line in read_lines(source, path):
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


def open_table(source: Source, path: str, wanted: Sequence[str]) -> tuple[dict[str, int], Iterator[Row]]:
    """The numbers of the columns `wanted` of a CSV with a header, and its rows; see `columns` and `read_rows`."""
    rows = read_rows(source, path)
    return columns(next(rows, []), wanted, f"{source.path}: {path}"), rows


def column(source: Source, path: str, name: str) -> Iterator[str]:
    """The cells of one column of a CSV with a header, without blanks around them; rows that have none are left out."""
    numbers, rows = open_table(source, path, (name,))
    for row in rows:
        if isinstance(row, list) and len(row) > numbers[name]:
            yield row[numbers[name]].strip()


def columns(heads: Row, wanted: Sequence[str], where: str) -> dict[str, int]:
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
        raise DataError(f"{where}: no column {', '.join(missing)}; its header has: {listed(heads)}")
    return {name: numbers[name] for name in wanted}


def listed(heads: Row) -> str:
    """A header for a message."""
    if isinstance(heads, csv.Error):
        return f"no valid CSV ({heads})"
    return ", ".join(map(quote, heads[:_SHOWN])) + (", ..." if len(heads) > _SHOWN else "") or "nothing"


def cells(row: Row, numbers: Mapping[str, int]) -> list[str]:
    """The row's cells in the columns `numbers`, in that order, without blanks around them.

    Raises BadPicture if the row is damaged or too short.
    """
    if isinstance(row, csv.Error):
        raise BadPicture(f"no valid CSV ({row})")
    if len(row) <= max(numbers.values()):
        raise BadPicture(f"has {counted(len(row), 'column')}, expected {max(numbers.values()) + 1}")
    return [row[number].strip() for number in numbers.values()]


def match(
    skipped: Skipped, table: str, rows: Iterable[_Line], read: Callable[[_Line], tuple[str, str, str] | None],
    files: Mapping[str, str],
) -> dict[str, Wanted]:  # fmt: skip
    """The pictures that a table's rows name, by split. Rows are counted from 0, without the header.

    Args:
        skipped: takes every row that cannot be used; the table, once, where that is all of them.
        rows: what the table, called `table` for people, has after its header.
        read: a row's (name of the picture, label, split), or None for a row to leave out; raises BadPicture.
        files: name of a picture as the table has it -> its path. A name that is no key of it names no picture, so
            no row can reach a file outside the source.
    """
    wanted: dict[str, Wanted] = {}
    taken: dict[str, int] = {}  # path -> its row
    bad: list[tuple[str, str]] = []
    for number, row in enumerate(rows):
        try:
            if (found := read(row)) is None:
                continue
            name, label, split = found
            if name not in files:
                raise BadPicture(f"its picture {quote(name)} is not there")
            path = files[name]
            if taken.setdefault(path, number) != number:
                raise BadPicture(f"{quote(name)} is listed in row {taken[path]} already")
        except BadPicture as error:
            bad.append((f"{table} row {number}", str(error)))
        else:
            wanted.setdefault(split, {})[path] = Picture(number, name, b"", label)
    report(skipped, table, taken, bad)
    return wanted


def report(skipped: Skipped, where: str, wanted: Collection[object], bad: list[tuple[str, str]]) -> None:
    """Hands on what is `bad` as [(path, why)]: each entry, or one for all where nothing else is there."""
    if bad and not wanted:
        path, why = bad[0]
        bad = [(where, f"nothing to use among {len(bad):,} (the first: {path}: {why})")]
    for path, why in bad:
        skipped.add(path, why)


def stream(source: Source, wanted: Wanted) -> Iterator[Picture]:
    """The pictures of a split with their bytes, one at a time, in the source's own order."""
    for path, data in source.read(wanted):
        yield dataclasses.replace(wanted[path], image=data)


def make_splits(
    source: Source, skipped: Skipped, wanted: Mapping[str, Any], order: Sequence[str],
    pictures: Callable[[Source, Any], Iterator[Picture]] = stream,
) -> dict[str, PlannedSplit]:  # fmt: skip
    """The splits that have a picture, in `order`; `pictures` reads those of `wanted[split]`.

    Raises DataError, with the first thing skipped, if none has a picture.
    """
    found = {split: wanted[split] for split in order if wanted.get(split)}
    if not found:
        way_out = "put it right, or give what has both labels and pictures"
        raise DataError(f"{source.path}: no usable picture{first_of(skipped.entries)}; {way_out}")
    return {split: PlannedSplit(len(part), functools.partial(pictures, source, part)) for split, part in found.items()}


def protocol(splits: Collection[str], sentences: Mapping[str, str]) -> str:
    """What results on these splits may be compared with: the first sentence whose split is there."""
    for split, sentence in sentences.items():
        if split in splits:
            rest = "; choose models on public_test" if split == "private_test" and "public_test" in splits else ""
            return f"{sentence}{rest}."
    return "There are only training pictures: no result on them may be compared with published ones."


def chose(taken: str, *others: str) -> list[str]:
    """A note on what lies beside what was taken."""
    return [f"chose {taken}; also there, not used: {', '.join(others)}"] if others else []


def absent(splits: Collection[str], official: Sequence[str]) -> list[str]:
    """A note on the official splits that are not among `splits`."""
    missing = [split for split in official if split not in splits]
    return [f"not in this copy: {', '.join(missing)}"] if missing else []


def beside(
    source: Source, table: str, labels: Iterable[tuple[str | None, str]], left: Sequence[str], prefix: str = ""
) -> list[str]:
    """Notes on the pictures whose folder means another class than their row, and on those `left` without a row.

    labels: for each picture with a row the class that its folder means, if any, and that of the row.
    """
    number = sum(folder not in (None, row) for folder, row in labels)
    note = f"{counted(number, 'picture')} with another class in {table} than by the folder: {table} counts"
    return [note] * bool(number) + unused(source, left, "picture", f" without a usable row in {table}", prefix)


@dataclasses.dataclass(frozen=True)
class ClassFolders:
    """Files at <split>/<class>/<file> under one root."""

    root: str  # what all paths begin with; empty, or ends with a slash
    files: list[str]  # without the root, in the order of the source's names
    known: int  # how many of them are in a known class

    @classmethod
    def find(
        cls, names: Iterable[str], splits: Collection[str], label_of: Callable[[str], str | None]
    ) -> ClassFolders | None:
        """Those of the root with the most files in known classes; None if there are no such paths.

        `splits` are names of split folders in lower case, `label_of` gives a class folder's label or None.
        """
        roots: dict[str, list[str]] = {}
        votes: Counter[str] = Counter()
        for name in names:
            root, *parts = f"/{name}".rsplit("/", 3)
            if len(parts) == 3 and parts[0].lower() in splits:
                roots.setdefault(root, []).append("/".join(parts))
                votes[root] += label_of(parts[1]) is not None
        if not roots:
            return None
        best = max(sorted(roots), key=votes.__getitem__)
        return cls(f"{best}/"[1:], roots[best], votes[best])

    def labelled(
        self, split_of: Callable[[str], str | None], label_of: Callable[[str], str | None], known: str, where: str
    ) -> dict[str, Wanted]:
        """The pictures by split; `split_of` gives a file's split, or None to leave it out; `label_of` as in `find`.

        Raises DataError, which begins with `where`, names the first unknown class folder and says what is `known`.
        """
        wanted: dict[str, Wanted] = {}
        for order, name in enumerate(self.files):
            label = label_of(name.split("/")[1])
            if label is None:
                path = quote(self.root + name.rpartition("/")[0])
                raise DataError(f"{where}: unknown class folder {path}; known: {known}")
            if split := split_of(name):
                wanted.setdefault(split, {})[self.root + name] = Picture(order, name, b"", label)
        return wanted
