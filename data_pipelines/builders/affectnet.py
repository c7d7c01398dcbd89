"""AffectNet in the forms in which people have it: two official releases, Kaggle's subset and Kaggle's folders."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from data_pipelines.builders import tables
from data_pipelines.builders.base import BadPicture, FaceBuilder, Picture, Plan
from data_pipelines.common.errors import DataError
from data_pipelines.labels import AFFECTNET_CODES, EMOTIONS, UnknownLabel, canonical
from data_pipelines.sources import Source

_Row = list[str] | csv.Error

OFFICIAL = ("train", "validation")

_TABLES = {"training.csv": "train", "validation.csv": "validation"}
_IMAGES = "manually_annotated_images"
_PATH, _EXPRESSION = "subdirectory_filepath", "expression"
_HEADERLESS = {_PATH: 0, _EXPRESSION: 6}  # the columns of a table without a header
_SETS = {"train_set": "train", "val_set": "validation"}
_FOLDERS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_DROPPED = {8: "none", 9: "uncertain", 10: "no face"}
_LONGEST_ANNOTATION = 4096  # bytes; a true one has some 140
#: Pictures of a complete release with seven classes and with eight.
_TOTALS = {"train": (283_901, 287_651), "validation": (3_500, 4_000)}
_EACH = 500  # pictures of each class of the validation set

_CODES = {str(code): label for code, label in enumerate(AFFECTNET_CODES)}
_IN_WORDS = ", ".join(f"{code} {label}" for code, label in _CODES.items())
_KNOWN = f"{', '.join(EMOTIONS)}, or AffectNet's codes {_IN_WORDS}"
_EXPECTED = (
    "training.csv and validation.csv with Manually_Annotated_Images/, or train_set/ and val_set/ with images/ and "
    "annotations/, or labels.csv with class folders, or folders train/<class>/ and test/<class>/, on their own, inside "
    "a folder, or in a zip or tar"
)

_OFFICIAL_PROTOCOL = (
    "Accuracy on validation may be compared with published AffectNet results on the same number of classes (7 or 8): "
    "they are on the validation set, as the test set is not published."
)
_SUBSET_PROTOCOL = (
    "Kaggle subset as in the paper, which splits it 80/20: not comparable with official AffectNet results."
)
_VARIANT_PROTOCOL = (
    "Kaggle variant with splits of its own: compare only with results on the same copy, not with official AffectNet "
    "results."
)


class AffectNet(FaceBuilder):
    """AffectNet: some 290,000 annotated faces in colour in eight classes (Mollahosseini et al., IEEE TAC 2019).

    The pictures of all releases are crops of faces already. The face box that the older release gives is relative to
    its picture, and is not used. A release or a training run with seven classes has no contempt.
    """

    name = "affectnet"
    CLASSES = EMOTIONS
    WHERE_TO_GET_IT = (
        "ask its authors (mohammadmahoor.com, needs a signed agreement), or Kaggle for the paper's subset "
        '"AffectNet Training Data"'
    )

    def plan(self, source: Source | None) -> Plan:
        """Recognises the layout; an official release is taken before what Kaggle has.

        Raises DataError if nothing is recognised or usable, a column is missing, or a class folder is unknown.
        """
        assert source is not None
        names = source.names()
        if found := tables.find(names, tuple(_TABLES)):
            return self._plan_older(source, names, found)
        if (root := _find_sets(names)) is not None:
            return self._plan_newer(source, names, root)
        labels = tables.find(names, ("labels.csv",))
        if labels and _names_a_picture(source, labels[0], _below(names, labels[0])):
            return self._plan_subset(source, names, labels[0])
        where = str(source.path)
        if folders := tables.class_folders(names, _FOLDERS, _folder_label, _KNOWN, where):
            return self._plan_folders(source, folders, labels[:1])
        if labels:
            return self._plan_subset(source, names, labels[0])  # says what is wrong with it
        raise DataError(f"{where}: no AffectNet recognised; expected {_EXPECTED}")

    def _plan_older(self, source: Source, names: list[str], found: list[str]) -> Plan:
        """Pictures by training.csv and validation.csv."""
        files = _by_folder_and_file(names)
        wanted: dict[str, tables.Wanted] = {}
        notes = []
        dropped: Counter[int] = Counter()
        for table in found:
            split = _TABLES[table.rpartition("/")[2].lower()]
            if split in wanted:
                notes.append(f"{table} was not used: there is another {split} table")
                continue
            with source.open(table) as opened:
                rows, columns = _after_header(tables.read_rows(opened), f"{source.path}: {table}")
                read = functools.partial(_read_older, columns, dropped)
                wanted[split] = tables.match(self.skipped, table, rows, read, files)
        splits = tables.make_splits(source, self.skipped, {split: wanted.get(split, {}) for split in OFFICIAL})
        if dropped:
            parts = [f"{number:,} with {code} ({_DROPPED[code]})" for code, number in sorted(dropped.items())]
            notes.append(f"left out, as they show no emotion: {', '.join(parts)}")
        for split in splits:
            notes += _compare(split, Counter(label for _, _, label in wanted[split].values()))
        notes += tables.absent(splits, OFFICIAL)
        return Plan("official, older (CSV files)", _OFFICIAL_PROTOCOL, splits, notes, aligned=True)

    def _plan_newer(self, source: Source, names: list[str], root: str) -> Plan:
        """Pictures with an annotation file each. Classes are not known before the files are read, with the pictures."""
        there = set(names)
        wanted: dict[str, tables.Wanted] = {}
        notes = []
        for folder, split in _SETS.items():
            wanted[split], bad = {}, []
            for order, path in enumerate(name for name in names if _is_image(name, f"{root}{folder}")):
                if _annotation(path) in there:
                    wanted[split][path] = (order, path.removeprefix(root), "")
                else:
                    bad.append((path, f"its annotation {tables.quote(_annotation(path))} is not there"))
            annotated = {_annotation(path) for path in wanted[split]}
            expressions = (name for name in names if name.startswith(f"{root}{folder}/") and name.endswith("_exp.npy"))
            bad += [(name, "its picture is not there") for name in expressions if name not in annotated]
            tables.report(self.skipped, f"{root}{folder}", wanted[split], bad)
            if wanted[split] and len(wanted[split]) not in _TOTALS[split]:
                seven, eight = _TOTALS[split]
                total = f"the complete set has {seven:,} with 7 classes and {eight:,} with 8"
                notes.append(f"{split}: {len(wanted[split]):,} pictures, {total}")
        splits = tables.make_splits(source, self.skipped, wanted, self._newer_pictures)
        notes += tables.absent(splits, OFFICIAL)
        return Plan("official, newer (annotation files)", _OFFICIAL_PROTOCOL, splits, notes, aligned=True)

    def _newer_pictures(self, source: Source, wanted: tables.Wanted) -> Iterator[Picture]:
        """All annotations first, as an archive may have them after the pictures; then the pictures that have a class.

        This release has the eight emotions only, so that codes 8 to 10 are skipped like any other wrong one.
        """
        labels = {}
        for path, data in source.read({_annotation(path) for path in wanted}):
            try:
                labels[path] = _read_annotation(data)
            except BadPicture as error:
                self.skipped.add(path, str(error))
        for path, data in source.read([path for path in wanted if _annotation(path) in labels]):
            order, name, _ = wanted[path]
            yield Picture(order, name, data, labels[_annotation(path)])

    def _plan_subset(self, source: Source, names: list[str], table: str) -> Plan:
        """Pictures by labels.csv; the folder of a picture may be of another class than its row."""
        files = _below(names, table)
        with source.open(table) as opened:
            rows = tables.read_rows(opened)
            columns = tables.columns(next(rows, []), ("pth", "label"), f"{source.path}: {table}")
            read = functools.partial(_read_subset, columns)
            wanted = tables.match(self.skipped, table, rows, read, files)
        splits = tables.make_splits(source, self.skipped, {"train": wanted})
        folders = ((_folder_label(f"/{name}".split("/")[-2]), label) for _, name, label in wanted.values())
        different = sum(folder not in (None, label) for folder, label in folders)
        notes = [f"{different:,} pictures have another class in {table} than their folder, and keep that of {table}"]
        notes = notes[: different > 0] + tables.unused(files.values(), wanted, f"are in no usable row of {table}")
        return Plan("Kaggle subset (labels.csv)", _SUBSET_PROTOCOL, splits, notes, aligned=True)

    def _plan_folders(self, source: Source, folders: dict[str, tables.Wanted], labels: list[str]) -> Plan:
        """Pictures in folders with the name or the code of their class."""
        classes = {name.split("/")[-2] for wanted in folders.values() for _, name, _ in wanted.values()}
        numbered = not classes.isdisjoint(_CODES)
        notes = [f"numbers of folders are AffectNet's codes: {_IN_WORDS}"] if numbered else []
        notes += [f"{table} names no picture that is there and was not used" for table in labels]
        layout = f"Kaggle variant, {'numbered' if numbered else 'named'} folders"
        splits = tables.make_splits(source, self.skipped, folders)
        return Plan(layout, _VARIANT_PROTOCOL, splits, notes, aligned=True)


def _by_folder_and_file(names: list[str]) -> dict[str, str]:
    """Pictures as the older release's tables name them, `<n>/<hash>.jpg` -> path."""
    pictures = [name for name in names if tables.is_picture(name)]
    inside = [name for name in pictures if f"/{_IMAGES}/" in f"/{name.lower()}"]
    return {"/".join(name.split("/")[-2:]): name for name in inside or pictures}


def _after_header(rows: Iterator[_Row], where: str) -> tuple[Iterable[_Row], dict[str, int]]:
    """The rows without the header, which there may be or not, and the columns. Raises DataError."""
    first = next(rows, [])
    if not isinstance(first, csv.Error) and len(first) > _HEADERLESS[_EXPRESSION]:
        with contextlib.suppress(BadPicture):
            _code(first[_HEADERLESS[_EXPRESSION]].strip())
            return itertools.chain([first], rows), _HEADERLESS
    return rows, tables.columns(first, tuple(_HEADERLESS), where)


def _read_older(columns: dict[str, int], dropped: Counter[int], row: _Row) -> tuple[str, str] | None:
    """A row's picture and label; None, and counted, if it shows no emotion. Raises BadPicture."""
    path, expression = tables.cells(row, columns)
    code = _code(expression)
    if code in _DROPPED:
        dropped[code] += 1
        return None
    return path, AFFECTNET_CODES[code]


def _read_subset(columns: dict[str, int], row: _Row) -> tuple[str, str]:
    """A row's picture and label. Raises BadPicture."""
    path, label = tables.cells(row, columns)
    try:
        return path, canonical(label)
    except UnknownLabel:
        raise BadPicture(f"unknown class {tables.quote(label)}") from None


def _read_annotation(data: bytes) -> str:
    """The label that a .npy file of one number or string gives, which is never unpickled. Raises BadPicture."""
    if len(data) > _LONGEST_ANNOTATION:
        raise BadPicture(f"more than {_LONGEST_ANNOTATION:,} bytes, no single number")
    try:
        value = np.load(io.BytesIO(data), allow_pickle=False).item()
    except Exception:  # for damaged files numpy raises nearly every type there is
        raise BadPicture("no .npy file of one plain number or string") from None
    code = _code((value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip())
    if code in _DROPPED:
        raise BadPicture(f"expression {code} ({_DROPPED[code]}) is no emotion")
    return AFFECTNET_CODES[code]


def _code(text: str) -> int:
    """AffectNet's number of an expression, 0 to 10. Raises BadPicture."""
    number = re.fullmatch(r"(\d{1,2})(\.0+)?", text, re.ASCII)
    if number is None or int(number[1]) >= len(AFFECTNET_CODES) + len(_DROPPED):
        raise BadPicture(f"expression {tables.quote(text)}, expected a code from 0 to 10")
    return int(number[1])


def _compare(split: str, counts: Counter[str]) -> list[str]:
    """Says where the numbers of an official split differ from the published ones."""
    classes = [label for label in EMOTIONS if label != "contempt" or counts[label]]
    total = _TOTALS[split][len(classes) == len(EMOTIONS)]
    parts = [f"{label} {counts[label]:,} of {_EACH}" for label in classes if counts[label] != _EACH]
    parts = parts if split == "validation" else []  # only its classes have published numbers
    if counts.total() == total and not parts:
        return []
    note = f"{split}: {counts.total():,} pictures, the complete set with {len(classes)} classes has {total:,}"
    return [f"{note}; different: {', '.join(parts)}" if parts else note]


def _find_sets(names: list[str]) -> str | None:
    """What the paths of the newer release begin with; of several copies that with the most pictures."""
    votes: Counter[str] = Counter()
    for name in names:
        root, *tail = f"/{name}".rsplit("/", 3)
        if len(tail) == 3 and tail[0] in _SETS and tail[1] == "images" and tables.is_picture(name):
            votes[f"{root[1:]}/" if root else ""] += 1
    return max(sorted(votes), key=votes.__getitem__, default=None)


def _is_image(name: str, folder: str) -> bool:
    return name.rpartition("/")[0] == f"{folder}/images" and tables.is_picture(name)


def _annotation(path: str) -> str:
    """The path of the class of a picture in `images/`."""
    folder, _, file = path.rpartition("/")
    return f"{folder.removesuffix('images')}annotations/{file.rpartition('.')[0]}_exp.npy"


def _below(names: list[str], table: str) -> dict[str, str]:
    """The pictures in the table's folder: path relative to it -> path."""
    root = table.removesuffix(table.rpartition("/")[2])
    return {name.removeprefix(root): name for name in names if name.startswith(root) and tables.is_picture(name)}


def _names_a_picture(source: Source, table: str, files: dict[str, str]) -> bool:
    """Whether a table has the subset's columns, and names at least one of `files`."""
    with source.open(table) as opened, contextlib.suppress(DataError):
        rows = tables.read_rows(opened)
        number = tables.columns(next(rows, []), ("pth",), table)["pth"]
        return any(
            not isinstance(row, csv.Error) and number < len(row) and row[number].strip() in files for row in rows
        )
    return False


def _folder_label(folder: str) -> str | None:
    """The class that a folder's name or code means, if any."""
    if folder in _CODES:
        return _CODES[folder]
    try:
        return canonical(folder)
    except UnknownLabel:
        return None
