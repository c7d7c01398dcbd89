"""AffectNet in the forms in which people have it: two official releases, Kaggle's subset and Kaggle's folders."""

import contextlib
import dataclasses
import functools
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from data_pipelines.builders import tables
from data_pipelines.builders.base import FaceBuilder, Picture, Plan, differences
from data_pipelines.builders.tables import ClassFolders, Row, cells, quote
from data_pipelines.common.errors import DataError
from data_pipelines.common.text import counted
from data_pipelines.labels import AFFECTNET_CODES, EMOTIONS, SEVEN, canonical
from data_pipelines.pictures import BadPicture
from data_pipelines.sources import Source

OFFICIAL = ("train", "validation")

_TABLES = {"training.csv": "train", "validation.csv": "validation"}
_IMAGES = "manually_annotated_images"
_HEADERLESS = {"subdirectory_filepath": 0, "expression": 6}  # the columns of a table without a header
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

    def plan(self, source: Source) -> Plan:
        """Recognises the layout; an official release is taken before what Kaggle has."""
        names = source.names()
        if found := tables.find(names, tuple(_TABLES)):
            return self._plan_older(source, names, found)
        pictures = list(filter(tables.is_picture, names))
        sets = ClassFolders.find(pictures, _SETS, {"images": "images"}.get)  # not of classes, but laid out like them
        if sets and sets.known:
            return self._plan_newer(source, names, sets)
        labels = tables.find(names, ("labels.csv",))
        if labels and _names_a_picture(source, labels[0], _below(names, labels[0])):
            return self._plan_subset(source, names, labels[0])
        if folders := ClassFolders.find(pictures, _FOLDERS, _folder_label):
            return self._plan_folders(source, folders, labels[:1])
        if labels:
            return self._plan_subset(source, names, labels[0])  # says what is wrong with it
        raise DataError(f"{source.path}: no AffectNet recognised; expected {_EXPECTED}")

    def _plan_older(self, source: Source, names: list[str], found: list[str]) -> Plan:
        """Pictures by training.csv and validation.csv."""
        files = _by_folder_and_file(names)
        wanted: dict[str, tables.Wanted] = {}
        notes = []
        dropped: Counter[int] = Counter()
        for table in found:
            split = _TABLES[tables.base(table).lower()]
            if split in wanted:
                notes.append(f"{table} was not used: there is another {split} table")
                continue
            rows, columns = _after_header(tables.read_rows(source, table), f"{source.path}: {table}")
            read = functools.partial(_read_older, columns, dropped)
            wanted[split] = tables.match(self.skipped, table, rows, read, files).get("", {})
        splits = tables.make_splits(source, self.skipped, wanted, OFFICIAL)
        if dropped:
            parts = [f"{number:,} with {code} ({_DROPPED[code]})" for code, number in sorted(dropped.items())]
            notes.append(f"left out, as they show no emotion: {', '.join(parts)}")
        for split in splits:
            counts = Counter(picture.label for picture in wanted[split].values())
            classes = EMOTIONS if counts["contempt"] else SEVEN
            known = dict.fromkeys(classes, _EACH) if split == "validation" else {}  # those of train are not published
            whole = f"the complete set with {len(classes)} classes"
            notes += differences(split, counts, known, _TOTALS[split][classes == EMOTIONS], whole)
        notes += tables.absent(splits, OFFICIAL)
        return Plan("official, older (CSV files)", _OFFICIAL_PROTOCOL, splits, notes, aligned=True)

    def _plan_newer(self, source: Source, names: list[str], sets: ClassFolders) -> Plan:
        """Pictures with an annotation file each. Classes are not known before the files are read, with the pictures."""
        wanted: dict[str, tables.Wanted] = {}
        notes = []
        for folder, split in _SETS.items():
            inside = f"{sets.root}{folder}/"
            images = [sets.root + name for name in sets.files if name.startswith(f"{folder}/images/")]
            annotations = {name for name in names if name.startswith(inside) and name.endswith("_exp.npy")}
            wanted[split], bad = {}, []
            for order, path in enumerate(images):
                if _annotation(path) in annotations:
                    wanted[split][path] = Picture(order, path.removeprefix(sets.root), b"", "")
                else:
                    bad.append((path, f"its annotation {quote(_annotation(path))} is not there"))
            lonely = annotations.difference(map(_annotation, images))
            bad += [(name, "its picture is not there") for name in sorted(lonely)]
            tables.report(self.skipped, inside.rstrip("/"), wanted[split], bad)
            number, (seven, eight) = len(wanted[split]), _TOTALS[split]
            if number not in (0, seven, eight):
                total = f"the complete set has {seven:,} with 7 classes and {eight:,} with 8"
                notes.append(f"{split}: {counted(number, 'picture')}, {total}")
        splits = tables.make_splits(source, self.skipped, wanted, OFFICIAL, self._newer_pictures)
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
        usable = {path: picture for path, picture in wanted.items() if _annotation(path) in labels}
        for path, data in source.read(usable):
            yield dataclasses.replace(usable[path], image=data, label=labels[_annotation(path)])

    def _plan_subset(self, source: Source, names: list[str], table: str) -> Plan:
        """Pictures by labels.csv; the folder of a picture may be of another class than its row."""
        files = _below(names, table)
        columns, rows = tables.open_table(source, table, ("pth", "label"))

        def read(row: Row) -> tuple[str, str, str]:
            path, text = cells(row, columns)
            if label := canonical(text):
                return path, label, "train"
            raise BadPicture(f"unknown class {quote(text)}")

        wanted = tables.match(self.skipped, table, rows, read, files)
        splits = tables.make_splits(source, self.skipped, wanted, OFFICIAL)
        pictures = wanted["train"]
        folders = ((_folder_label(f"/{one.name}".split("/")[-2]), one.label) for one in pictures.values())
        notes = tables.beside(table, folders, [path for path in files.values() if path not in pictures])
        return Plan("Kaggle subset (labels.csv)", _SUBSET_PROTOCOL, splits, notes, aligned=True)

    def _plan_folders(self, source: Source, folders: ClassFolders, labels: list[str]) -> Plan:
        """Pictures in folders with the name or the code of their class."""
        wanted = folders.labelled(
            lambda name: _FOLDERS[name.partition("/")[0].lower()], _folder_label, _KNOWN, str(source.path)
        )
        numbered = any(name.split("/")[1] in _CODES for name in folders.files)
        notes = [f"numbers of folders are AffectNet's codes: {_IN_WORDS}"] if numbered else []
        notes += [f"{table} names no picture that is there and was not used" for table in labels]
        layout = f"Kaggle variant, {'numbered' if numbered else 'named'} folders"
        splits = tables.make_splits(source, self.skipped, wanted, (*OFFICIAL, "test"))
        return Plan(layout, _VARIANT_PROTOCOL, splits, notes, aligned=True)


def _by_folder_and_file(names: list[str]) -> dict[str, str]:
    """Pictures as the older release's tables name them, `<n>/<hash>.jpg` -> path."""
    pictures = [name for name in names if tables.is_picture(name)]
    inside = [name for name in pictures if f"/{_IMAGES}/" in f"/{name.lower()}"]
    return {"/".join(name.split("/")[-2:]): name for name in inside or pictures}


def _after_header(rows: Iterator[Row], where: str) -> tuple[Iterable[Row], dict[str, int]]:
    """The rows without the header, which there may be or not, and the columns. Raises DataError."""
    first = next(rows, [])
    with contextlib.suppress(BadPicture):
        _code(cells(first, _HEADERLESS)[1])
        return itertools.chain([first], rows), _HEADERLESS
    return rows, tables.columns(first, tuple(_HEADERLESS), where)


def _read_older(columns: Mapping[str, int], dropped: Counter[int], row: Row) -> tuple[str, str, str] | None:
    """A row's picture and label; None, and counted, if it shows no emotion. Raises BadPicture."""
    path, expression = cells(row, columns)
    if (code := _code(expression)) in _DROPPED:
        dropped[code] += 1
        return None
    return path, AFFECTNET_CODES[code], ""


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
    return f"{folder.removesuffix('images')}annotations/{file.rpartition('.')[0]}_exp.npy"


def _below(names: list[str], table: str) -> dict[str, str]:
    """The pictures in the table's folder: path relative to it -> path."""
    root = table.removesuffix(tables.base(table))
    return {name.removeprefix(root): name for name in names if name.startswith(root) and tables.is_picture(name)}


def _names_a_picture(source: Source, table: str, files: Mapping[str, str]) -> bool:
    """Whether a table has the subset's columns, and names at least one of `files`."""
    with contextlib.suppress(DataError):
        columns, rows = tables.open_table(source, table, ("pth",))
        column = columns["pth"]
        return any(row[column].strip() in files for row in rows if isinstance(row, list) and column < len(row))
    return False


def _folder_label(folder: str) -> str | None:
    """The class that a folder's name or code means, if any."""
    return _CODES.get(folder) or canonical(folder)
