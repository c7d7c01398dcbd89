"""FER-2013 in every form in which people have it: tables of pixels, folders of pictures, Hugging Face's files."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from data_pipelines.builders import pixel_tables, readers
from data_pipelines.builders.arrow_tables import ArrowTables
from data_pipelines.builders.base import FaceBuilder, Picture, Plan
from data_pipelines.builders.pixel_tables import (
    CODES_IN_WORDS,
    OFFICIAL,
    USAGES,
    WORDS,
    PixelTable,
    label_of,
    label_of_code,
)
from data_pipelines.builders.readers import ClassFolders, base
from data_pipelines.common.errors import DataError
from data_pipelines.common.text import some
from data_pipelines.labels import SEVEN, canonical
from data_pipelines.pictures import BadPicture
from data_pipelines.sources import Source

_TABLES = ("fer2013.csv", "icml_face_data.csv", "train.csv")  # the most complete first

_TRAIN = dict(zip(SEVEN, (3995, 436, 4097, 7215, 4965, 4830, 3171), strict=True))
_PUBLIC = dict(zip(SEVEN, (467, 56, 496, 895, 607, 653, 415), strict=True))
_PRIVATE = dict(zip(SEVEN, (491, 55, 528, 879, 626, 594, 416), strict=True))

_KNOWN = f"angry, disgust, fear, happy, neutral, sad, surprise, or all by the codes {CODES_IN_WORDS}"
_NUMBERED = f"the classes are numbers: taken for FER-2013's codes {CODES_IN_WORDS}"
_EXPECTED = (
    "a CSV with columns emotion, pixels and perhaps Usage, Parquet or Arrow files, or folders <split>/<class>/ or "
    "<class>/<split>/, on their own, inside a folder, or in a zip or tar"
)

#: What results may be compared with, where there is such a split; the first that is there counts.
_PROTOCOLS = {
    "private_test": "Accuracy on private_test may be compared with published FER-2013 test results",
    "public_test": (
        "Accuracy on public_test may be compared with published public test (validation) results of FER-2013, not with "
        "private test results"
    ),
    "test": (
        "test mixes PublicTest and PrivateTest (nothing tells them apart): compare only with results on "
        "both together, never with private test results"
    ),
}


class Fer2013(FaceBuilder):
    """FER-2013: 35,887 grey faces of 48x48 pixels in seven classes (Goodfellow et al., ICML 2013 challenge)."""

    CLASSES = SEVEN
    KNOWN_COUNTS: ClassVar[dict[str, dict[str, int]]] = {
        **dict(zip(OFFICIAL, (_TRAIN, _PUBLIC, _PRIVATE), strict=True)),
        "test": {label: _PUBLIC[label] + _PRIVATE[label] for label in SEVEN},
    }
    WHERE_TO_GET_IT = 'ask Kaggle for "FER-2013" or for the ICML 2013 challenge in representation learning'

    def plan(self, source: Source) -> Plan:
        """Recognises the layout; of several the most complete one is taken, then the one that lies the least deep."""
        names = source.names()
        found, others = pixel_tables.find(source, names, _TABLES)
        arrow, folders = ArrowTables.find(names, WORDS), _Folders.find(names)
        read = functools.partial(self._plan_tables, source)
        plain = [table for table in found if "usage" not in table.columns]
        choices: list[tuple[str, Callable[[], Plan]]] = [
            (table.path, functools.partial(read, {"": table})) for table in found if table not in plain
        ]
        if folders and folders.found.known:  # those without any known class are hardly meant
            choices.append((folders.shown, functools.partial(self._plan_folders, source, folders)))
        if arrow:
            choices.append((f"{arrow.kind} files", functools.partial(self._plan_arrow, source, arrow)))
        if parts := _parts(plain):  # folders have a test split that train.csv has not
            blind = [path for path in others if pixel_tables.unlabelled(source, path)]
            shown = ", ".join(table.path for table in parts.values())
            choices.append((shown, functools.partial(read, parts, blind)))
        left = [table for table in plain if table not in parts.values()]
        choices += [(table.path, functools.partial(read, {"train": table})) for table in left]
        if choices:
            plan = choices[0][1]()
            return dataclasses.replace(plan, notes=readers.chose(*(shown for shown, _ in choices)) + plan.notes)
        if folders:
            return self._plan_folders(source, folders)  # says that all its classes are unknown
        heads = [f"{path} has the header {readers.listed(pixel_tables.header(source, path))}" for path in others]
        why = f" ({some(heads, 2, '; ')})" if heads else ""
        raise DataError(f"{source.path}: no FER-2013 recognised{why}; expected {_EXPECTED}")

    def _plan_tables(self, source: Source, parts: Mapping[str, PixelTable], blind: Sequence[str] = ()) -> Plan:
        """One table with a column Usage, as the part "", or a table for each split; `blind` are those without labels.

        Of every table the first row that can be used is read whole: one without any is refused now.
        """
        wanted: dict[str, dict[int, PixelTable]] = {}
        for part, table in parts.items():
            where = base(table.path) if len(parts) > 1 else ""
            bad, words, sound = [], set(), False
            for number, row in table.rows(source):
                try:
                    words.add(table.emotion_of(row))
                    split = part or table.split_of(row)
                    if not sound:
                        table.picture(number, row)
                        sound = True
                except BadPicture as error:
                    bad.append((f"{where} row {number}".lstrip(), str(error)))
                else:
                    wanted.setdefault(split, {})[number] = table
            _check_codes(words, f"{source.path}: {table.path}")
            if bad and not sound:
                shown = readers.listed(pixel_tables.header(source, table.path))
                why = f"no usable row among {len(bad):,} (the first: {': '.join(bad[0])}); its header has: {shown}"
                raise DataError(f"{source.path}: {table.path}: {why}")
            readers.report(self.skipped, table.path, [part] * sound, bad)

        def pictures(source: Source, rows: dict[int, PixelTable]) -> Iterator[Picture]:
            table = next(iter(rows.values()))
            where = base(table.path) if len(parts) > 1 else ""
            return table.pictures(source, rows, self.skipped, where)

        notes = [f"{base(path)} carries no labels and was not used" for path in blind]
        layout = next(iter(parts.values())).layout if len(parts) == 1 else f"CSV files {', '.join(parts)}"
        return self._plan(source, layout, wanted, notes, pictures)

    def _plan_arrow(self, source: Source, arrow: ArrowTables) -> Plan:
        words: set[str] = set()

        def label(text: str) -> str:
            words.add(text)
            return label_of(text)

        wanted, notes = arrow.wanted(source, self.skipped, WORDS, label)
        _check_codes(words, str(source.path))
        notes += [_NUMBERED] * any(map(label_of_code, words))
        pictures = functools.partial(arrow.pictures, skipped=self.skipped)
        return self._plan(source, f"{arrow.kind} files", wanted, notes, pictures)

    def _plan_folders(self, source: Source, folders: _Folders) -> Plan:
        files = folders.found.files
        mixed = not any(_folder(name) == "test" and _usage(name) in OFFICIAL[1:] for name in files)

        def split_of(name: str) -> str | None:
            split, usage = _folder(name), _usage(name)
            if split == "test" and (mixed or usage in OFFICIAL[1:]):
                return "test" if mixed else usage
            if split != "test" and usage in (None, split):
                return split
            whys = {
                "train": "a test picture in the training folder",
                "test": "in the test folder, but the name says neither PublicTest nor PrivateTest",
            }
            self.skipped.add(folders.real(name), whys.get(split, f"its name says {usage}, and its folder {split}"))
            return None

        label = label_of_code if folders.numbered else _label
        found = folders.found.labelled(split_of, label, _KNOWN, str(source.path))
        wanted = {
            split: {
                folders.paths[path]: dataclasses.replace(picture, name=folders.real(picture.name))
                for path, picture in inside.items()
            }
            for split, inside in found.items()
        }
        notes = [_NUMBERED] * folders.numbered
        layout = "folders, renamed files" if "test" in wanted and "public_test" not in wanted else "folders"
        return self._plan(source, layout, wanted, notes, readers.stream)

    def _plan(
        self, source: Source, layout: str, wanted: dict[str, Any], notes: list[str],
        pictures: Callable[[Source, Any], Iterator[Picture]],
    ) -> Plan:  # fmt: skip
        if "test" in wanted and "public_test" in wanted and "private_test" not in wanted:
            wanted["private_test"] = wanted.pop("test")
            notes = [*notes, "its validation split is stored as public_test, its test split as private_test"]
        splits = readers.make_splits(source, self.skipped, wanted, (*OFFICIAL, "test"), pictures)
        notes = notes + readers.absent(splits, ("train", "test") if "test" in splits else OFFICIAL)
        return Plan(layout, readers.protocol(splits, _PROTOCOLS), splits, notes)


@dataclasses.dataclass(frozen=True)
class _Folders:
    """Class folders below split folders, or above them: then their paths are turned round to be read alike."""

    found: ClassFolders
    paths: dict[str, str]  # every path, the split before the class -> the path as it is
    numbered: bool  # all classes are numbers

    @classmethod
    def find(cls, names: list[str]) -> _Folders | None:
        """None if there are no such folders."""
        paths = {name: name for name in names}
        for name in names:
            *above, first, second, file = ["", "", *name.split("/")]
            if first and readers.split_word(second, WORDS) and not readers.split_word(first, WORDS):
                paths.setdefault("/".join([*above[2:], second, first, file]), name)
        words = {part.lower() for name in paths for part in name.split("/")[-3:-1] if readers.split_word(part, WORDS)}
        found = ClassFolders.find(paths, words, _label)
        by_code = ClassFolders.find(paths, words, label_of_code)
        numbered = bool(found and by_code and by_code.known and not found.known)
        found = by_code if numbered else found
        return cls(found, paths, numbered) if found else None

    def real(self, name: str) -> str:
        """The true path, below the root, of one of the files found."""
        return self.paths[self.found.root + name].removeprefix(self.found.root)

    @property
    def shown(self) -> str:
        """The folders for people: "faces/train/ and test/"."""
        inside = dict.fromkeys(self.real(name).partition("/")[0] for name in self.found.files)
        return self.found.root + "/ and ".join(sorted(inside, reverse=True)) + "/"


def _parts(found: list[PixelTable]) -> dict[str, PixelTable]:
    """The tables without a column Usage that lie beside the first of them, by the splits that their names tell."""
    parts: dict[str, PixelTable] = {}
    for table in found:
        if table.path.rpartition("/")[0] == found[0].path.rpartition("/")[0]:
            parts.setdefault(readers.split_of_path(base(table.path), WORDS) or "train", table)
    return parts


def _check_codes(words: set[str], where: str) -> None:
    """Raises DataError for classes that are counted from 1: all of FER-2013's codes would mean something else."""
    if not words.isdisjoint({"7", "7.0"}) and words.isdisjoint({"0", "0.0"}):
        raise DataError(f"{where}: it has a class 7 and no class 0, and FER-2013's codes are {CODES_IN_WORDS}")


def _folder(name: str) -> str:
    """The split of the folder of a file at <split>/<class>/<file>."""
    return readers.split_word(name.partition("/")[0], WORDS)


def _usage(name: str) -> str | None:
    """The split that a file's prefix (PublicTest_123.jpg) tells, if any."""
    prefix, separator, _ = base(name).lower().partition("_")
    return USAGES.get(prefix) if separator else None


def _label(folder: str) -> str | None:
    """The class that a folder's name means, if it is one of the seven."""
    label = canonical(folder)
    return label if label in SEVEN else None
