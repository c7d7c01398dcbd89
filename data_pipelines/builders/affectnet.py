"""AffectNet in the forms in which people have it: two official releases, Kaggle's subset and Kaggle's folders."""

import contextlib
import csv
import dataclasses
import functools
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from data_pipelines.builders import codes, readers
from data_pipelines.builders.base import FaceBuilder, Picture, Plan, differences
from data_pipelines.builders.readers import ClassFolders, Row, cells, quote
from data_pipelines.common.errors import DataError
from data_pipelines.common.text import counted
from data_pipelines.labels import AFFECTNET_CODES, EMOTIONS, SEVEN, canonical
from data_pipelines.pictures import BadPicture
from data_pipelines.sources import Source, is_picture

OFFICIAL = ("train", "validation")

_MANUAL, _AUTOMATIC = "manually_annotated_images", "automatically_annotated_images"
#: Tables of the older release, the preferred one of a split first: its split and the folder of its pictures.
_TABLES = {
    "training.csv": ("train", _MANUAL),
    "validation.csv": ("validation", _MANUAL),
    "automatically_annotated.csv": ("train", _AUTOMATIC),
    "automatically_annotated_file_list.csv": ("train", _AUTOMATIC),
}
_HEADERLESS = {"subdirectory_filepath": 0, "expression": 6}  # the columns of a table without a header
_SETS = {"train_set": "train", "val_set": "validation"}
_FOLDERS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_DROPPED = {8: "none", 9: "uncertain", 10: "no face"}
_LONGEST_ANNOTATION = 4096  # bytes; a true one has some 140
#: Pictures of a complete release with seven classes and with eight.
_TOTALS = {"train": (283_901, 287_651), "validation": (3_500, 4_000)}
_EACH = 500  # pictures of each class of the validation set

_CODES = dict(enumerate(AFFECTNET_CODES))
_IN_WORDS = ", ".join(f"{code} {label}" for code, label in _CODES.items())
_KNOWN = f"{', '.join(EMOTIONS)}, or AffectNet's codes {_IN_WORDS}; for other numbers give --codes NAME,NAME,..."
_ASSUMED = "AffectNet's codes"
_EXPECTED = (
    "training.csv and validation.csv with Manually_Annotated_Images/, or train_set/ and val_set/ with images/ and "
    "annotations/, or a CSV of pth or id, and label, or folders train/<class>/ and test/<class>/, on their own, inside "
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
    TAKES_CODES = True
    WHERE_TO_GET_IT = (
        "ask its authors (mohammadmahoor.com, needs a signed agreement), or Kaggle for the paper's subset "
        '"AffectNet Training Data"'
    )

    def plan(self, source: Source) -> Plan:
        """Recognises the layout; an official release is taken before what Kaggle has."""
        self.codes = codes.emotions(self.codes, self.CLASSES)
        names = source.names()
        if found := [path for table in _TABLES for path in readers.find(names, (table,))]:
            return self._plan_older(source, names, found)
        pictures = list(filter(is_picture, names))
        # Not of classes, but laid out like them.
        sets = ClassFolders.find(pictures, _SETS, lambda folder: folder if folder.lower() == "images" else None)
        if sets and sets.known:
            return self._plan_newer(source, names, sets)
        labels = readers.find(names, ("labels.csv",)) or _table_of_ids(source, names)
        if labels and _names_a_picture(source, labels[0], _below(names, labels[0])):
            return self._plan_subset(source, names, labels[0])
        if folders := ClassFolders.find(pictures, _FOLDERS, _numbered_or_named):
            return self._plan_folders(source, folders, labels[:1])
        if labels:
            return self._plan_subset(source, names, labels[0])  # says what is wrong with it
        raise DataError(f"{source.path}: no AffectNet recognised; expected {_EXPECTED}")

    def _plan_older(self, source: Source, names: list[str], found: list[str]) -> Plan:
        """Pictures by training.csv and validation.csv."""
        wanted: dict[str, readers.Wanted] = {}
        notes = []
        dropped: Counter[int] = Counter()
        official = set()  # splits with labels by people, whose numbers are known
        for table in found:
            split, folder = _TABLES[readers.base(table).lower()]
            if split in wanted:
                notes.append(f"{table} was not used: there is another {split} table")
                continue
            if folder == _MANUAL:
                official.add(split)
            else:
                notes.append(f"the labels of {table} were given by a program, not by people")
            files = _by_folder_and_file(names, folder)
            rows, columns = _after_header(readers.read_rows(source, table), f"{source.path}: {table}")
            read = functools.partial(_read_older, columns, dropped)
            wanted[split] = readers.match(self.skipped, table, rows, read, files).get("", {})
        splits = readers.make_splits(source, self.skipped, wanted, OFFICIAL)
        if dropped:
            parts = [f"{number:,} with {code} ({_DROPPED[code]})" for code, number in sorted(dropped.items())]
            notes.append(f"left out, as they show no emotion: {', '.join(parts)}")
        for split in filter(official.__contains__, splits):
            counts = Counter(picture.label for picture in wanted[split].values())
            classes = EMOTIONS if counts["contempt"] else SEVEN
            known = dict.fromkeys(classes, _EACH) if split == "validation" else {}  # those of train are not published
            whole = f"the complete set with {len(classes)} classes"
            notes += differences(split, counts, known, _TOTALS[split][classes == EMOTIONS], whole)
        notes += readers.absent(splits, OFFICIAL)
        return Plan("official, older (CSV files)", _OFFICIAL_PROTOCOL, splits, notes, aligned=True)

    def _plan_newer(self, source: Source, names: list[str], sets: ClassFolders) -> Plan:
        """Pictures with an annotation file each. Classes are not known before the files are read, with the pictures."""
        wanted: dict[str, readers.Wanted] = {}
        notes = []
        annotation_of: dict[str, str] = {}  # a picture's path -> that of its annotation
        for folder, split in _SETS.items():
            inside = f"{sets.root}{folder}/"
            images = [sets.root + name for name in sets.files if name.lower().startswith(f"{folder}/images/")]
            annotations = {name.lower(): name for name in names if name.lower().startswith(inside.lower())}
            annotations = {key: name for key, name in annotations.items() if key.endswith("_exp.npy")}
            wanted[split], bad = {}, []
            for order, path in enumerate(images):
                if found := annotations.pop(_annotation(path).lower(), None):
                    annotation_of[path] = found
                    wanted[split][path] = Picture(order, path.removeprefix(sets.root), b"", "")
                else:
                    bad.append((path, f"its annotation {quote(_annotation(path))} is not there"))
            bad += [(name, "its picture is not there") for name in sorted(annotations.values())]
            readers.report(self.skipped, inside.rstrip("/"), wanted[split], bad)
            number, (seven, eight) = len(wanted[split]), _TOTALS[split]
            if number not in (0, seven, eight):
                total = f"the complete set has {seven:,} with 7 classes and {eight:,} with 8"
                notes.append(f"{split}: {counted(number, 'picture')}, {total}")
        pictures = functools.partial(self._newer_pictures, annotation_of)
        splits = readers.make_splits(source, self.skipped, wanted, OFFICIAL, pictures)
        notes += readers.absent(splits, OFFICIAL)
        return Plan("official, newer (annotation files)", _OFFICIAL_PROTOCOL, splits, notes, aligned=True)

    def _newer_pictures(
        self, annotation_of: Mapping[str, str], source: Source, wanted: readers.Wanted
    ) -> Iterator[Picture]:
        """All annotations first, as an archive may have them after the pictures; then the pictures that have a class.

        This release has the eight emotions only, so that codes 8 to 10 are skipped like any other wrong one.
        """
        labels = {}
        for path, data in source.read({annotation_of[path] for path in wanted}):
            try:
                labels[path] = _read_annotation(data)
            except BadPicture as error:
                self.skipped.add(path, str(error))
        usable = {path: picture for path, picture in wanted.items() if annotation_of[path] in labels}
        for path, data in source.read(usable):
            yield dataclasses.replace(usable[path], image=data, label=labels[annotation_of[path]])

    def _plan_subset(self, source: Source, names: list[str], table: str) -> Plan:
        """Pictures by a table of paths or ids; the folder of a picture may be of another class than its row."""
        files = _below(names, table)
        key = _key(source, table)
        called = _by_id(files) if key == "id" else files
        columns, rows = readers.open_table(source, table, (key, "label"))
        named = any(map(canonical, readers.column(source, table, "label")))
        numbers = set() if named else codes.numbers(readers.column(source, table, "label"))
        by_number = self._by_number(numbers)

        def read(row: Row) -> tuple[str, str, str]:
            path, text = cells(row, columns)
            name = _found(path, called)
            if key == "id" and name not in called:
                raise BadPicture(f"no picture is called {quote(path)}, or several are")
            if label := _label(text, by_number):
                return name, label, "train"
            raise BadPicture(f"unknown class {quote(text)}")

        wanted = readers.match(self.skipped, table, rows, read, called)
        splits = readers.make_splits(source, self.skipped, wanted, OFFICIAL)
        pictures = wanted["train"]
        folders = ((_label(f"/{path}".split("/")[-2], by_number), one.label) for path, one in pictures.items())
        notes = [codes.note(by_number, wanted, "" if self.codes else _ASSUMED)] if numbers else []
        notes += readers.beside(source, table, folders, [path for path in files.values() if path not in pictures])
        subset = key == "pth" and not numbers
        layout = f"Kaggle {'subset' if subset else 'variant'} ({readers.base(table)})"
        protocol = _SUBSET_PROTOCOL if subset else _VARIANT_PROTOCOL
        return Plan(layout, protocol, splits, notes, aligned=True, numbered=bool(numbers))

    def _plan_folders(self, source: Source, folders: ClassFolders, labels: list[str]) -> Plan:
        """Pictures in folders with the name or the code of their class."""
        numbers = codes.numbers({name.split("/")[1] for name in folders.files})
        by_number = self._by_number(numbers)
        wanted = folders.labelled(
            lambda name: _FOLDERS[name.partition("/")[0].lower()], functools.partial(_label, by_number=by_number),
            _KNOWN, str(source.path),
        )  # fmt: skip
        notes = [codes.note(by_number, wanted, "" if self.codes else _ASSUMED)] if numbers else []
        notes += [f"{table} names no picture that is there and was not used" for table in labels]
        layout = f"Kaggle variant, {'numbered' if numbers else 'named'} folders"
        splits = readers.make_splits(source, self.skipped, wanted, (*OFFICIAL, "test"))
        return Plan(layout, _VARIANT_PROTOCOL, splits, notes, aligned=True, numbered=bool(numbers))

    def _by_number(self, numbers: set[int]) -> dict[int, str]:
        """The classes of the numbers that are labels in a copy which is not the authors' own; nothing without any."""
        if self.codes and numbers:
            return codes.named(self.codes, numbers)
        return _CODES if numbers else {}


def _by_folder_and_file(names: list[str], folder: str) -> dict[str, str]:
    """Pictures as the older release's tables name them, `<n>/<hash>.jpg` -> path; those in `folder`, if it is there."""
    pictures = [name for name in names if is_picture(name)]
    inside = [name for name in pictures if f"/{folder}/" in f"/{name.lower()}"]
    return {"/".join(name.split("/")[-2:]): name for name in inside or pictures}


def _after_header(rows: Iterator[Row], where: str) -> tuple[Iterable[Row], dict[str, int]]:
    """The rows without the header, which there may be or not, and the columns. Raises DataError."""
    first = next(rows, [])
    with contextlib.suppress(BadPicture):
        _code(cells(first, _HEADERLESS)[1])
        return itertools.chain([first], rows), _HEADERLESS
    return rows, readers.columns(first, tuple(_HEADERLESS), where)


def _read_older(columns: Mapping[str, int], dropped: Counter[int], row: Row) -> tuple[str, str, str] | None:
    """A row's picture and label; None, and counted, if it shows no emotion. Raises BadPicture."""
    path, expression = cells(row, columns)
    if (code := _code(expression)) in _DROPPED:
        dropped[code] += 1
        return None
    return "/".join(path.replace("\\", "/").split("/")[-2:]), AFFECTNET_CODES[code], ""


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
        raise BadPicture(f"expression {quote(text)}, expected a code from 0 to 10")
    return int(number[1])


def _annotation(path: str) -> str:
    """The path of the class of a picture in `images/`."""
    folder, _, file = path.rpartition("/")
    return f"{folder[: -len('images')]}annotations/{file.rpartition('.')[0]}_exp.npy"


def _below(names: list[str], table: str) -> dict[str, str]:
    """The pictures in the table's folder: path relative to it -> path."""
    root = table.removesuffix(readers.base(table))
    return {name.removeprefix(root): name for name in names if name.startswith(root) and is_picture(name)}


def _names_a_picture(source: Source, table: str, files: Mapping[str, str]) -> bool:
    """Whether a table has the columns of one, and names at least one of `files`."""
    key = _key(source, table)
    called = _by_id(files) if key == "id" else files
    with contextlib.suppress(DataError):
        return any(_found(path, called) in called for path in readers.column(source, table, key))
    return False


def _key(source: Source, table: str) -> str:
    """The column of a table that tells the pictures."""
    heads = next(readers.read_rows(source, table), [])
    there = [] if isinstance(heads, csv.Error) else [head.strip().lower() for head in heads]
    return "id" if {"id", "label"} <= {*there} and "pth" not in there else "pth"


def _table_of_ids(source: Source, names: list[str]) -> list[str]:
    """The only CSV of a copy where it has the columns id and label, whatever its name; else nothing."""
    found = [name for name in names if name.lower().endswith(".csv")]
    return found if len(found) == 1 and _key(source, found[0]) == "id" else []


def _by_id(files: Mapping[str, str]) -> dict[str, str]:
    """Pictures by path, file name, and file name without its ending, as far as no two have the same one."""
    called: dict[str, set[str]] = {}
    for name, path in files.items():
        for key in (name, readers.base(name), readers.base(name).rpartition(".")[0]):
            called.setdefault(key, set()).add(path)
    return {key: next(iter(paths)) for key, paths in called.items() if len(paths) == 1}


def _found(path: str, files: Mapping[str, str]) -> str:
    """The key of `files` that a table's path means: the same, or its end from a folder on; the path if there is none.

    Copies write paths with backslashes, or with folders before them that were there when the table was made.
    """
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    ends = ("/".join(parts[start:]) for start in range(max(1, len(parts) - 1)))
    return next((end for end in ends if end in files), path)


def _numbered_or_named(folder: str) -> str | None:
    """Something where a folder's name may be a class's."""
    return canonical(folder) if codes.number(folder) is None else folder


def _label(text: str, by_number: Mapping[int, str]) -> str | None:
    """The class that a name or a number means, if any."""
    number = codes.number(text)
    return canonical(text) if number is None else by_number.get(number)
