"""Hugging Face's form of a data set: Parquet files, and the Arrow files of `save_to_disk`, a picture a row.

The files come from strangers: they are read a few rows at a time, no read is larger than LARGEST_READ, and every batch
is checked before it is looked at. Extension types, which could bring code, are taken for what they store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.builders import pixels, readers
from data_pipelines.builders.base import Picture, Skipped, unused
from data_pipelines.builders.readers import base, quote
from data_pipelines.common.errors import DataError
from data_pipelines.common.text import reason
from data_pipelines.pictures import MAX_PIXELS, BadPicture
from data_pipelines.sources import MAX_MEMBER_BYTES, Source

LARGEST_READ = 1 << 30
_ROWS = 16  # of Parquet at once: a few large pictures, or one that compression repeats
_KINDS = {".parquet": "Parquet", ".arrow": "Arrow"}

_IMAGES = ("image", "images", "img", "picture", "pixels", "face")
_LABELS = ("label", "labels", "emotion", "emotions", "class", "expression")
_SPLITS = ("split", "usage", "set")

_ONLY_PATHS = (
    "has only paths of pictures, as {}, and not the pictures; give the folder of pictures, or write the table again "
    "with them inside, as push_to_hub and save_to_disk of the library datasets do"
)


def _check_numbers(paths: Iterable[str]) -> None:
    """Raises DataError where not all of train-00000-of-00002.parquet and its like are there: half a download."""
    there: dict[tuple[str, str, str], set[int]] = {}
    for path in paths:
        if found := re.fullmatch(r"(.*-)(\d{5})(-of-\d{5})(\.\w+)", path):
            there.setdefault((found[1], found[3], found[4]), set()).add(int(found[2]))
    for (begin, of, end), numbers in there.items():
        missing = next(number for number in itertools.count() if number not in numbers)
        if missing < int(of.removeprefix("-of-")):
            name = quote(f"{begin}{missing:05}{of}{end}")
            raise DataError(f"{name} is not there; give all files of it, or rename those that you have")


@dataclasses.dataclass(frozen=True)
class ArrowTables:
    """Files of rows that belong together."""

    kind: str  # "Parquet" or "Arrow"
    splits: dict[str, str]  # path -> the split that it tells, or ""
    others: list[str]  # files of the same kinds that are not used

    @classmethod
    def find(cls, names: Iterable[str], words: Mapping[str, str]) -> ArrowTables | None:
        """The files in one place that tell most splits, as `readers.split_of_path` has it; None if there is no file."""
        groups: dict[tuple[str, str], dict[str, str]] = {}
        for name in sorted(names, key=lambda name: (name.count("/"), name)):
            folder, suffix = name.rpartition("/")[0], f".{name.lower().rpartition('.')[2]}"
            if suffix in _KINDS and "/." not in f"/{name}" and not base(name).startswith("cache-"):
                place = folder.rpartition("/")[0] if readers.split_word(base(folder), words) else folder
                groups.setdefault((suffix, place), {})[name] = readers.split_of_path(name, words)
        if not groups:
            return None
        best = max(groups, key=lambda group: (len(set(groups[group].values())), len(groups[group])))
        others = [name for group, files in groups.items() if group != best for name in files]
        return cls(_KINDS[best[0]], groups[best], others)

    def wanted(
        self, source: Source, skipped: Skipped, words: Mapping[str, str], label_of: Callable[[str], str]
    ) -> tuple[dict[str, dict[int, Picture]], list[str]]:
        """The pictures by split and number of row, without their bytes, and notes on what is not used.

        A column split counts before the names of files. label_of: from a class's name, or its number where the file
        has no names, to the label; raises BadPicture, or DataError. Raises DataError for files that cannot be read,
        or have no pictures or labels.
        """
        _check_numbers(self.splits)
        wanted: dict[str, dict[int, Picture]] = {}
        extra: dict[str, None] = {}
        splits = self._states(source, words) if not any(self.splits.values()) else self.splits
        told = any(splits.values())
        root = posixpath.join(posixpath.commonpath(list(map(posixpath.dirname, splits))), "")
        for index, (path, split) in enumerate(splits.items()):
            columns = _Columns.of(source, path)
            extra |= dict.fromkeys(columns.others)
            _check_pictures(source, path, columns)
            found, bad = [], []
            names = [columns.label, *([columns.split] if columns.split else [])]
            for row, cells in enumerate(_rows(_batches(source, path, names))):
                name = f"{path.removeprefix(root)} row {row}"
                try:
                    place = self._split_of(columns, cells[1:], words) or split or ("" if told else "train")
                    if not place:
                        raise BadPicture(f"the file's name tells no split; known: {', '.join(words)}")
                    label = label_of(_text(cells[0], columns.names(columns.label), "label"))
                except BadPicture as error:
                    bad.append((name, str(error)))
                else:
                    found.append(name)
                    number = index << 32 | row
                    wanted.setdefault(place, {})[number] = Picture(number, name, b"", label)
            readers.report(skipped, path.removeprefix(root), found, bad)
            source.accounted.add(path)
        notes = [f"columns that were not used: {', '.join(map(quote, extra))}"] if extra else []
        if not told and list(wanted) == ["train"] and not columns.split:
            notes.append("neither the files' names nor a column tell a split: everything is train")
        return wanted, notes + unused(source, self.others, "file", " of another folder or kind")

    def _states(self, source: Source, words: Mapping[str, str]) -> dict[str, str]:
        """path -> split, as the state.json beside an Arrow file tells, or ""."""
        told, names = {}, set(source.names())
        for path in self.splits:
            state = f"{path.rpartition('/')[0]}/state.json".lstrip("/")
            told[path] = ""
            if state in names:
                with contextlib.suppress(ValueError, RecursionError, AttributeError), source.open(state) as stream:
                    told[path] = readers.split_word(str(json.loads(stream.read(1 << 20)).get("_split")), words)
        return told

    @staticmethod
    def _split_of(columns: _Columns, cells: list[Any], words: Mapping[str, str]) -> str:
        """The split that a row's column split tells, "" where there is none. Raises BadPicture."""
        if not cells:
            return ""
        word = _text(cells[0], columns.names(columns.split), "split")
        if split := readers.split_word(word, words):
            return split
        raise BadPicture(f"unknown split {quote(word)}; known: {', '.join(words)}")

    def pictures(self, source: Source, wanted: Mapping[int, Picture], skipped: Skipped) -> Iterator[Picture]:
        """Those pictures with their bytes, one at a time; one that cannot be used is `skipped`."""
        used = {number >> 32 for number in wanted}
        for index, path in enumerate(self.splits):
            if index not in used:
                continue
            columns = _Columns.of(source, path)
            for row, (cell,) in enumerate(_rows(_batches(source, path, [columns.image]))):
                if picture := wanted.get(index << 32 | row):
                    try:
                        yield dataclasses.replace(picture, image=_image(cell))
                    except BadPicture as error:
                        skipped.add(picture.name, str(error))


@dataclasses.dataclass(frozen=True)
class _Columns:
    """The columns of a file: of pictures ("image.bytes" for those in a struct), labels and, or "", splits."""

    image: str
    label: str
    split: str
    others: list[str]
    features: Mapping[str, Any]  # what the library datasets says about columns

    @classmethod
    def of(cls, source: Source, path: str) -> _Columns:
        """Raises DataError, which lists the columns, where there are no pictures or labels among them."""
        with _opened(source, path) as file:  # what fails is a name that is no text, too
            return cls._of(file.schema_arrow if isinstance(file, pq.ParquetFile) else file.schema, source, path)

    @classmethod
    def _of(cls, schema: pa.Schema, source: Source, path: str) -> _Columns:
        features, there = _features(schema), schema.names

        def choose(kind: str, spellings: tuple[str, ...]) -> str:
            declared = [name for name in there if features.get(name, {}).get("_type") == kind]
            spelt = [name for spelling in spellings for name in there if name.strip().lower() == spelling]
            return next((name for name in spelt if name in declared), "") or next(iter([*declared, *spelt]), "")

        image, label, split = choose("Image", _IMAGES), choose("ClassLabel", _LABELS), choose("", _SPLITS)
        missing = [what for what, name in (("pictures", image), ("labels", label)) if not name]
        if missing:
            known = f"pictures: {', '.join(_IMAGES)}; labels: {', '.join(_LABELS)}"
            shown = readers.listed(there)
            raise DataError(f"{source.path}: {path}: no column of {' or '.join(missing)}; it has: {shown}; {known}")
        others = [name for name in there if name not in (image, label, split)]
        kind = schema.field(image).type
        if pa.types.is_struct(kind):
            fields = [field.name for field in kind]
            if "bytes" not in fields:
                shown = readers.listed(fields)
                raise DataError(f"{source.path}: {path}: the column {quote(image)} has no field bytes; it has: {shown}")
            image += ".bytes"
        return cls(image, label, split, others, features)

    def names(self, column: str) -> list[str] | None:
        """The names of a column's numbers, if the file has them."""
        names = self.features.get(column, {}).get("names")
        return [str(name) for name in names] if isinstance(names, list) else None


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What the library datasets says about columns: {column: {"_type": "ClassLabel", "names": [...]}}."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return {str(k): v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}


class _Limited:
    """A stream whose reads are bounded: sizes in a damaged or hostile file would else be allocated as they are."""

    closed = False

    def __init__(self, stream: IO[bytes]) -> None:
        self.seek, self.tell, self._read = stream.seek, stream.tell, stream.read

    def read(self, size: int) -> bytes:
        """At most `size` bytes. Raises OSError for more than LARGEST_READ."""
        if not 0 <= size <= LARGEST_READ:
            raise OSError(f"a block of {size:,} bytes, more than {LARGEST_READ:,}")
        return self._read(size)

    def close(self) -> None:
        """Does nothing: who opened the stream closes it."""


@contextlib.contextmanager
def _opened(source: Source, path: str) -> Iterator[Any]:
    """A ParquetFile, a RecordBatchStreamReader or a RecordBatchFileReader; any error in it as one line."""
    try:
        with source.open(path) as stream:
            magic = stream.read(6)
            stream.seek(0)
            file = pa.PythonFile(_Limited(stream), mode="r")
            if path.lower().endswith(".parquet"):
                yield pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
            else:
                yield pa.ipc.open_file(file) if magic == b"ARROW1" else pa.ipc.open_stream(file)
    except DataError:
        raise
    except Exception as error:  # for damaged files pyarrow raises nearly every type there is
        way_out = "if it was downloaded, get it again"
        raise DataError(f"{source.path}: {path}: cannot be read ({reason(error)}); {way_out}") from error


def _batches(source: Source, path: str, columns: list[str]) -> Iterator[list[pa.Array]]:
    """The columns, "image.bytes" for a field of one, of a few rows after the other."""
    with _opened(source, path) as file:
        if isinstance(file, pq.ParquetFile):
            batches = file.iter_batches(_ROWS, columns=columns, use_threads=False)
        elif isinstance(file, pa.ipc.RecordBatchFileReader):
            batches = map(file.get_batch, range(file.num_record_batches))
        else:
            batches = file
        for batch in batches:
            batch.validate(full=True)
            yield [_column(batch, name) for name in columns]


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    """A column without wrappings: no extension type, no dictionary, no struct."""
    column, field = (name, "") if name in batch.schema.names else name.rsplit(".", 1)
    array = batch.column(column)
    if field:
        array = array.flatten()[array.type.get_field_index(field)]  # null where the struct is
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array


def _rows(batches: Iterator[list[pa.Array]]) -> Iterator[list[pa.Scalar]]:
    for batch in batches:
        yield from map(list, zip(*batch, strict=True))


def _check_pictures(source: Source, path: str, columns: _Columns) -> None:
    """Raises DataError where the first rows have paths of pictures instead of pictures."""
    column = columns.image.removesuffix(".bytes")
    for (array,) in _batches(source, path, [column]):
        first, told = array.slice(0, _ROWS), []
        if pa.types.is_struct(first.type):
            fields = dict(zip([field.name for field in first.type], first.flatten(), strict=True))
            if fields["bytes"].null_count == len(first) and "path" in fields:
                told = fields["path"].drop_null().to_pylist()
        elif _is_text(first.type):
            told = [text for text in first.drop_null().to_pylist() if re.search("[A-Za-z]", text)]
        if told:
            what = _ONLY_PATHS.format(quote(str(told[0])))
            raise DataError(f"{source.path}: {path}: the column {quote(column)} {what}")
        break


def _text(cell: pa.Scalar, names: list[str] | None, what: str) -> str:
    """A class or split as a text; a number as what `names` has for it, or else as it is. Raises BadPicture."""
    value = cell.as_py()
    if isinstance(value, float) and value.is_integer():  # a column of pandas that once had a gap
        value = int(value)
    if value is None or str(value).strip() == "":
        raise BadPicture(f"no {what}")
    if names is None or not isinstance(value, int):
        return str(value).strip()
    if not 0 <= value < len(names):
        raise BadPicture(f"the {what} {value}, and the file has names for 0 to {len(names) - 1} only")
    return names[value]


def _image(cell: pa.Scalar) -> bytes:
    """The picture in a cell, encoded. Raises BadPicture."""
    if not cell.is_valid:
        raise BadPicture("there is no picture in its row")
    if _is_text(cell.type) or _is_binary(cell.type):
        if cell.as_buffer().size > MAX_MEMBER_BYTES:
            raise BadPicture(f"larger than {MAX_MEMBER_BYTES >> 20} MiB")
        return pixels.png(pixels.from_text(cell.as_py())) if _is_text(cell.type) else cell.as_py()
    if not _is_list(cell.type):
        raise BadPicture(f"{cell.type} is no type of pictures")
    values, shape = cell.values, [len(cell.values)]
    while _is_list(values.type):
        lengths = set(pc.list_value_length(values).to_pylist())
        if len(lengths) != 1 or None in lengths:
            raise BadPicture("its rows of pixels are not equally long")
        shape.append(lengths.pop())
        values = values.flatten()
    if not 0 < len(values) <= 3 * MAX_PIXELS or values.null_count:
        raise BadPicture(f"{len(values):,} pixels, {values.null_count:,} of them missing")
    return pixels.png(pixels.levels(values.to_numpy(zero_copy_only=False).reshape(shape)))


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
