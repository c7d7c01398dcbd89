"""RAF-DB, the basic set, in the forms in which people have it: the authors' list, and Kaggle's class folders."""

import csv
import dataclasses
import functools
from typing import ClassVar

from data_pipelines.builders import tables
from data_pipelines.builders.base import FaceBuilder, Plan
from data_pipelines.builders.tables import ClassFolders
from data_pipelines.common.errors import DataError
from data_pipelines.common.text import counted
from data_pipelines.labels import RAFDB_CODES, SEVEN
from data_pipelines.pictures import BadPicture
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

_PROTOCOL = (
    "Accuracy on test may be compared with published RAF-DB results (basic set, seven classes); choose models on a "
    "part of train"
)
_NOT_ALIGNED = ". Most of those are on the aligned pictures; these are the original photographs"


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

    def plan(self, source: Source) -> Plan:
        """Recognises the layout; the authors' list is taken before class folders."""
        names = source.names()
        if lists := tables.find(names, _LISTS):
            return self._plan_list(source, names, lists)
        if folders := ClassFolders.find(filter(tables.is_picture, names), SPLITS, _CODES.get):
            return self._plan_folders(source, names, folders)
        raise DataError(f"{source.path}: no RAF-DB recognised; expected {_EXPECTED}")

    def _plan_list(self, source: Source, names: list[str], lists: list[str]) -> Plan:
        """Pictures by lines such as `train_00001.jpg 5`: all the aligned, or else all the original ones."""
        table = lists[0]
        folder = f"/{table}".rpartition("/")[0].removesuffix("/EmoLabel")
        root = f"{folder}/"[1:]  # of both EmoLabel/ and Image/
        pictures = {kind: _pictures(names, f"{root}Image/{kind}/") for kind in _KINDS}
        kind = max(_KINDS, key=lambda kind: len(pictures[kind]))
        read = functools.partial(_read_line, f"{source.path}: {table}")
        wanted = tables.match(self.skipped, table, tables.read_lines(source, table), read, pictures[kind])
        left = [f"{root}Image/{other}/" for other in _KINDS if other != kind and pictures[other]]
        notes = tables.chose(*lists) + tables.chose(f"{root}Image/{kind}/", *left)
        return self._plan(source, f"official, {kind} pictures", wanted, notes, kind == "aligned")

    def _plan_folders(self, source: Source, names: list[str], folders: ClassFolders) -> Plan:
        """Pictures in folders 1 to 7; where `<split>_labels.csv` is there, it tells which pictures and classes."""
        wanted = folders.labelled(lambda name: name.partition("/")[0].lower(), _CODES.get, _KNOWN, str(source.path))
        notes = []
        for split in filter(wanted.get, SPLITS):
            if found := tables.find(names, [f"{split}_labels.csv"]):
                wanted[split], more = self._relabel(source, found[0], wanted[split])
                notes += more
            else:
                notes.append(f"no {split}_labels.csv: the folders give the classes of {split}")
        aligned = all("_aligned." in path for inside in wanted.values() for path in inside)
        return self._plan(source, "Kaggle", wanted, notes, aligned)

    def _relabel(self, source: Source, table: str, inside: tables.Wanted) -> tuple[tables.Wanted, list[str]]:
        """The pictures of a split with the classes of its table, and notes on where that differs from the folders."""
        where = f"{source.path}: {table}"
        columns, rows = tables.open_table(source, table, ("image", "label"))

        def read(row: tables.Row) -> tuple[str, str, str]:
            name, code = tables.cells(row, columns)
            return name, _label(where, name, code), ""

        found = tables.match(self.skipped, table, rows, read, {tables.base(path): path for path in inside}).get("", {})
        # Names and order stay those of the folders: they are the same with the table and without.
        wanted = {path: dataclasses.replace(inside[path], label=row.label) for path, row in found.items()}
        labels = ((inside[path].label, row.label) for path, row in found.items())
        return wanted, tables.beside(table, labels, [path for path in inside if path not in wanted])

    def _plan(
        self, source: Source, layout: str, wanted: dict[str, tables.Wanted], notes: list[str], aligned: bool
    ) -> Plan:
        splits = tables.make_splits(source, self.skipped, wanted, SPLITS)
        protocol = tables.protocol(splits, {"test": _PROTOCOL + ("" if aligned else _NOT_ALIGNED)})
        return Plan(layout, protocol, splits, notes + tables.absent(splits, SPLITS), aligned)


def _pictures(names: list[str], folder: str) -> dict[str, str]:
    """The pictures inside a folder, at any depth: name as in the list (without `_aligned`) -> path."""
    inside = (name for name in names if name.startswith(folder) and tables.is_picture(name))
    return {tables.base(name).replace("_aligned.", "."): name for name in inside}


def _read_line(where: str, line: str | csv.Error) -> tuple[str, str, str]:
    """Picture, label and split by a line of the authors' list. Raises BadPicture, or DataError as `_label` does."""
    if isinstance(line, csv.Error):
        raise BadPicture(str(line))
    fields = line.split()
    if len(fields) != 2:
        raise BadPicture(f"{counted(len(fields), 'field')}, expected name and class")
    name, code = fields
    split = name.partition("_")[0]
    if split not in SPLITS:
        raise BadPicture(f"the name {tables.quote(name)} begins with neither train_ nor test_")
    return name, _label(where, name, code), split


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
