"""RAF-DB, the basic set, in the forms in which people have it: the authors' list, and Kaggle's class folders."""

from __future__ import annotations

import csv
import functools
from typing import ClassVar

from data_pipelines.builders import tables
from data_pipelines.builders.base import BadPicture, FaceBuilder, Plan
from data_pipelines.common.errors import DataError
from data_pipelines.labels import RAFDB_CODES, SEVEN
from data_pipelines.sources import Source

SPLITS = ("train", "test")

_LISTS = ("list_patition_label.txt", "list_partition_label.txt")  # the authors' spelling, and the right one
_KINDS = ("aligned", "original")  # folders of pictures under Image/, the preferred one first
_CODES = {str(code): label for code, label in RAFDB_CODES.items()}
_KNOWN = ", ".join(f"{code} {label}" for code, label in _CODES.items())
_EXPECTED = (
    "EmoLabel/list_patition_label.txt with Image/aligned/, or class folders train/1/ to train/7/ and test/1/ to "
    "test/7/, on their own, inside a folder, or in a zip or tar"
)


def protocol(splits: set[str], aligned: bool) -> str:
    """One or two sentences: what results on these splits of RAF-DB may be compared with."""
    if "test" not in splits:
        return "There are only training pictures: no result on them may be compared with published ones."
    pictures = "" if aligned else " Most of those are on the aligned pictures; these are the original photographs."
    return (
        "Accuracy on test may be compared with published RAF-DB results (basic set, seven classes); choose models on a "
        f"part of train.{pictures}"
    )


class RafDb(FaceBuilder):
    """RAF-DB, basic set: 15,339 faces in colour, aligned to 100x100 pixels, in seven classes (Li et al., CVPR 2017)."""

    name = "rafdb"
    CLASSES = SEVEN
    KNOWN_COUNTS: ClassVar[dict[str, dict[str, int]]] = {
        "train": dict(zip(RAFDB_CODES.values(), (1290, 281, 717, 4772, 1982, 705, 2524), strict=True)),
        "test": dict(zip(RAFDB_CODES.values(), (329, 74, 160, 1185, 478, 162, 680), strict=True)),
    }
    WHERE_TO_GET_IT = (
        "ask its authors (www.whdeng.cn/RAF/model1.html; free for non-commercial research, not to be passed on), or "
        'Kaggle for "RAF-DB"'
    )

    def plan(self, source: Source | None) -> Plan:
        """Recognises the layout; the authors' list is taken before class folders.

        Raises DataError if nothing is recognised or usable, a column is missing, or a class has an unknown number.
        """
        assert source is not None
        names = source.names()
        if lists := tables.find(names, _LISTS):
            return self._plan_list(source, names, lists)
        where = str(source.path)
        folders = tables.class_folders(names, {split: split for split in SPLITS}, _CODES.get, _KNOWN, where)
        if folders:
            return self._plan_folders(source, names, folders)
        raise DataError(f"{where}: no RAF-DB recognised; expected {_EXPECTED}")

    def _plan_list(self, source: Source, names: list[str], lists: list[str]) -> Plan:
        """Pictures by lines such as `train_00001.jpg 5`: all the aligned, or else all the original ones."""
        table = lists[0]
        root = _root(table)
        pictures = {kind: _pictures(names, f"{root}Image/{kind}/") for kind in _KINDS}
        kind = max(_KINDS, key=lambda kind: len(pictures[kind]))
        read = functools.partial(_read_line, f"{source.path}: {table}")
        with source.open(table) as opened:
            found = tables.match(self.skipped, table, tables.read_lines(opened), read, pictures[kind])
        splits: dict[str, tables.Wanted] = {split: {} for split in SPLITS}
        for path, (order, name, label) in found.items():
            splits[name.partition("_")[0]][path] = (order, name, label)
        notes = [f"chose {table}; also there, not used: {', '.join(lists[1:])}"] if lists[1:] else []
        left = [other for other in _KINDS if other != kind and pictures[other]]
        notes += [f"chose {root}Image/{kind}/; also there, not used: {root}Image/{other}/" for other in left]
        return self._plan(source, f"official, {kind} pictures", splits, notes, kind == "aligned")

    def _plan_folders(self, source: Source, names: list[str], folders: dict[str, tables.Wanted]) -> Plan:
        """Pictures in folders 1 to 7; where `<split>_labels.csv` is there, it tells which pictures and classes."""
        splits = dict(folders)
        notes = []
        for split, inside in folders.items():
            if found := tables.find(names, [f"{split}_labels.csv"]):
                splits[split], more = self._relabel(source, found[0], inside)
                notes += more
            else:
                notes.append(f"no {split}_labels.csv: the folders give the classes of {split}")
        aligned = all("_aligned." in path for inside in splits.values() for path in inside)
        return self._plan(source, "Kaggle", splits, notes, aligned)

    def _relabel(self, source: Source, table: str, inside: tables.Wanted) -> tuple[tables.Wanted, list[str]]:
        """The pictures of a split with the classes of its table, and notes on where that differs from the folders."""
        files = {path.rpartition("/")[2]: path for path in inside}
        where = f"{source.path}: {table}"

        def read(row: list[str] | csv.Error) -> tuple[str, str]:
            name, code = tables.cells(row, numbers)
            return name, _label(where, name, code)

        with source.open(table) as opened:
            rows = tables.read_rows(opened)
            numbers = tables.columns(next(rows, []), ("image", "label"), where)
            found = tables.match(self.skipped, table, rows, read, files)
        # Names and order stay those of the folders: they are the same with the table and without.
        wanted = {path: (*inside[path][:2], label) for path, (_, _, label) in found.items()}
        different = sum(wanted[path] != inside[path] for path in wanted)
        notes = [f"{different:,} pictures have another class in {table} than their folder, and keep that of {table}"]
        return wanted, notes[: different > 0] + tables.unused(inside, wanted, f"are in no usable row of {table}")

    def _plan(
        self, source: Source, layout: str, wanted: dict[str, tables.Wanted], notes: list[str], aligned: bool
    ) -> Plan:
        splits = tables.make_splits(source, self.skipped, wanted)
        notes = notes + tables.absent(splits, SPLITS)
        return Plan(layout, protocol(set(splits), aligned), splits, notes, aligned)


def _root(table: str) -> str:
    """The folder that has both EmoLabel/ with the list and Image/; empty, or ends with a slash."""
    folder = table.rpartition("/")[0]
    parent, _, last = folder.rpartition("/")
    folder = parent if last == "EmoLabel" else folder
    return f"{folder}/" if folder else ""


def _pictures(names: list[str], folder: str) -> dict[str, str]:
    """The pictures inside a folder, at any depth: name as in the list (without `_aligned`) -> path."""
    inside = (name for name in names if name.startswith(folder) and tables.is_picture(name))
    return {name.rpartition("/")[2].replace("_aligned.", "."): name for name in inside}


def _read_line(where: str, line: str | csv.Error) -> tuple[str, str]:
    """Picture and label of a line of the authors' list. Raises BadPicture, or DataError as `_label` does."""
    fields = [] if isinstance(line, csv.Error) else line.split()
    if len(fields) != 2:
        raise BadPicture(str(line) if isinstance(line, csv.Error) else f"{len(fields)} fields, expected name and class")
    name, code = fields
    if name.partition("_")[0] not in SPLITS:
        raise BadPicture(f"the name {tables.quote(name)} begins with neither train_ nor test_")
    return name, _label(where, name, code)


def _label(where: str, name: str, code: str) -> str:
    """The label of a class number in a table.

    Raises BadPicture if it is no number, DataError if it is none of RAF-DB's: in a copy that counts from 0 all other
    numbers would mean something else too.
    """
    if code in _CODES:
        return _CODES[code]
    if code.isdecimal():
        raise DataError(f"{where}: {tables.quote(name)} has the class {tables.quote(code)}; known: {_KNOWN}")
    raise BadPicture(f"class {tables.quote(code)}, expected a number from 1 to 7")
