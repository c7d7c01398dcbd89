"""RAF-DB, the basic set, in the forms in which people have it: the authors' list, and Kaggle's class folders."""

import csv
import dataclasses
import functools
import posixpath
from collections.abc import Mapping
from typing import ClassVar

from data_pipelines.builders import codes, readers
from data_pipelines.builders.base import FaceBuilder, Plan
from data_pipelines.builders.readers import ClassFolders
from data_pipelines.common.errors import DataError
from data_pipelines.common.text import counted
from data_pipelines.labels import RAFDB_CODES, SEVEN, canonical
from data_pipelines.pictures import BadPicture
from data_pipelines.sources import Source, is_picture

SPLITS = ("train", "test")

_LISTS = ("list_patition_label.txt", "list_partition_label.txt")  # the authors' spelling, and the right one
_KINDS = ("aligned", "original")  # folders of pictures, the preferred one first
_KNOWN = ", ".join(f"{code} {label}" for code, label in RAFDB_CODES.items())
_EXPECTED = (
    "EmoLabel/list_patition_label.txt with Image/aligned/, or class folders train/1/ to train/7/ (or train/happy/ ...) "
    "and test/1/ to test/7/, on their own, inside a folder, or in a zip or tar"
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
    TAKES_CODES = True
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
        self.codes = codes.emotions(self.codes, self.CLASSES)
        names = source.names()
        if lists := readers.find(names, _LISTS):
            return self._plan_list(source, names, lists)
        if folders := ClassFolders.find(filter(is_picture, names), SPLITS, _numbered_or_named):
            return self._plan_folders(source, names, folders)
        raise DataError(f"{source.path}: no RAF-DB recognised; expected {_EXPECTED}")

    def _plan_list(self, source: Source, names: list[str], lists: list[str]) -> Plan:
        """Pictures by lines such as `train_00001.jpg 5`: all the aligned, or else all the original ones."""
        table = lists[0]
        folder = f"/{table}".rpartition("/")[0]
        if folder.lower().endswith("/emolabel"):
            folder = folder.rpartition("/")[0]
        root = f"{folder}/"[1:]  # of both EmoLabel/ and Image/
        pictures = {kind: _pictures(names, root, kind) for kind in _KINDS}
        kind = max(_KINDS, key=lambda kind: len(pictures[kind]))
        places = {kind: _folder_of(inside, root, kind) for kind, inside in pictures.items()}
        given = codes.numbers(_fields(line)[-1] for line in readers.read_lines(source, table) if isinstance(line, str))
        by_number = self._by_number(given)
        read = functools.partial(
            _read_line, f"{source.path}: {table}", by_number, pictures[kind], f"{source.path}/{places[kind]}"
        )
        wanted = readers.match(self.skipped, table, readers.read_lines(source, table), read, pictures[kind])
        notes = [codes.note(by_number, wanted)] if self.codes else []
        left = [places[other] for other in _KINDS if other != kind and pictures[other]]
        notes += readers.chose(*lists) + readers.chose(places[kind], *left)
        return self._plan(source, f"official, {kind} pictures", wanted, notes, kind == "aligned", numbered=True)

    def _plan_folders(self, source: Source, names: list[str], folders: ClassFolders) -> Plan:
        """Pictures in folders by number or name; where `<split>_labels.csv` is there, it tells which, and as what."""
        given = codes.numbers({name.split("/")[1] for name in folders.files})
        by_number = self._by_number(given)
        known = f"{_KNOWN}, or names of these; for other numbers give --codes NAME,NAME,..."
        wanted = folders.labelled(
            lambda name: name.partition("/")[0].lower(), functools.partial(_folder_label, by_number=by_number),
            known, str(source.path),
        )  # fmt: skip
        notes = [codes.note(by_number, wanted)] if self.codes and given else []
        for split in filter(wanted.get, SPLITS):
            if found := readers.find(names, [f"{split}_labels.csv"]):
                wanted[split], more = self._relabel(source, found[0], wanted[split], by_number)
                notes += more
            else:
                notes.append(f"no {split}_labels.csv: the folders give the classes of {split}")
        aligned = all("_aligned." in path for inside in wanted.values() for path in inside)
        layout = "Kaggle" if given else "Kaggle, named folders"
        return self._plan(source, layout, wanted, notes, aligned, numbered=bool(given))

    def _by_number(self, given: set[int]) -> dict[int, str]:
        return codes.named(self.codes, given) if self.codes and given else RAFDB_CODES

    def _relabel(
        self, source: Source, table: str, inside: readers.Wanted, by_number: Mapping[int, str]
    ) -> tuple[readers.Wanted, list[str]]:
        """The pictures of a split with the classes of its table, and notes on where that differs from the folders."""
        where = f"{source.path}: {table}"
        columns, rows = readers.open_table(source, table, ("image", "label"))

        files = {_key(path): path for path in inside}
        folder = f"{source.path}/{posixpath.commonpath([posixpath.dirname(path) for path in inside])}/"

        def read(row: readers.Row) -> tuple[str, str, str]:
            name, code = readers.cells(row, columns)
            _check_there(name, files, folder)
            return _key(name), _label(where, name, code, by_number), ""

        found = readers.match(self.skipped, table, rows, read, files).get("", {})
        # Names and order stay those of the folders: they are the same with the table and without.
        wanted = {path: dataclasses.replace(inside[path], label=row.label) for path, row in found.items()}
        labels = ((inside[path].label, row.label) for path, row in found.items())
        return wanted, readers.beside(source, table, labels, [path for path in inside if path not in wanted])

    def _plan(
        self, source: Source, layout: str, wanted: dict[str, readers.Wanted], notes: list[str], aligned: bool, *,
        numbered: bool,
    ) -> Plan:  # fmt: skip
        splits = readers.make_splits(source, self.skipped, wanted, SPLITS)
        protocol = readers.protocol(splits, {"test": _PROTOCOL + ("" if aligned else _NOT_ALIGNED)})
        return Plan(layout, protocol, splits, notes + readers.absent(splits, SPLITS), aligned, numbered=numbered)


def _key(name: str) -> str:
    """A picture's name as the authors' list has it: copies add `_aligned` to it, or leave its ending out."""
    stem = readers.base(name) if is_picture(name) else f"{readers.base(name)}."
    return f"{stem.rpartition('.')[0].removesuffix('_aligned')}.jpg"


def _pictures(names: list[str], root: str, kind: str) -> dict[str, str]:
    """The pictures of one kind below `root`, by `_key`: those in a folder of that name, at any depth.

    Where there are no such folders at all, those called `_aligned`, and the others as originals.
    """
    inside = [name for name in names if name.startswith(root) and is_picture(name)]
    kinds = {name: [k for k in _KINDS if f"/{k}/" in f"/{name[len(root) :].lower()}"] for name in inside}
    if any(kinds.values()):
        return {_key(name): name for name in inside if kinds[name][:1] == [kind]}
    return {_key(name): name for name in inside if ("_aligned." in name) == (kind == "aligned")}


def _folder_of(pictures: Mapping[str, str], root: str, kind: str) -> str:
    """The folder that holds all of some pictures; if there are none, where the authors have them."""
    folder = posixpath.commonpath([posixpath.dirname(path) for path in pictures.values()] or [f"{root}Image/{kind}"])
    return f"{folder}/" if folder else ""


def _fields(line: str) -> list[str]:
    return line.replace(",", " ").split() or [""]


def _read_line(
    where: str, by_number: Mapping[int, str], pictures: Mapping[str, str], folder: str, line: str | csv.Error
) -> tuple[str, str, str]:
    """Picture, label and split by a line of the authors' list. Raises BadPicture, or DataError as `_label` does."""
    if isinstance(line, csv.Error):
        raise BadPicture(str(line))
    fields = _fields(line)
    if len(fields) != 2:
        raise BadPicture(f"{counted(len(fields), 'field')}, expected name and class")
    name, code = fields
    split = name.partition("_")[0]
    if split not in SPLITS:
        raise BadPicture(f"the name {readers.quote(name)} begins with neither train_ nor test_")
    label = _label(where, name, code, by_number)
    _check_there(name, pictures, folder)
    return _key(name), label, split


def _check_there(name: str, pictures: Mapping[str, str], folder: str) -> None:
    """Raises BadPicture, with the folder where it was looked for, for a picture that is not there."""
    if _key(name) not in pictures or "/" in name:
        raise BadPicture(f"its picture {readers.quote(name)} is not in {folder}")


def _numbered_or_named(folder: str) -> str | None:
    """Something where a folder's name may be a class's."""
    return folder if codes.number(folder) is not None else _folder_label(folder, {})


def _folder_label(folder: str, by_number: Mapping[int, str]) -> str | None:
    """The class that a folder's name or number means, if any."""
    number, label = codes.number(folder), canonical(folder)
    return by_number.get(number) if number is not None else label if label in SEVEN else None


def _label(where: str, name: str, code: str, by_number: Mapping[int, str]) -> str:
    """The label of a class number in a table.

    Raises BadPicture if it is no number, DataError if it is none of the known: in a copy that counts from 0 all other
    numbers would mean something else too.
    """
    number = codes.number(code)
    if number is not None and number in by_number:
        return by_number[number]
    if code.isdecimal():
        known = f"known: {_KNOWN}; for other numbers give --codes NAME,NAME,..."
        raise DataError(f"{where}: {readers.quote(name)} has the class {readers.quote(code)}; {known}")
    raise BadPicture(f"class {readers.quote(code)}, expected a number from 1 to 7")
