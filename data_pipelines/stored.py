"""The files of a prepared data set: listed with their sizes when it is complete, and read with errors that name them.

A file that is gone or of another size is found before any is opened. Damage that leaves the size is found where it is
read: ArrayRecord keeps a checksum of every part.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipelines.common.errors import DataError
from data_pipelines.common.files import read_json, write_text
from data_pipelines.common.text import reason

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

#: The list, in the data set's folder. Data sets of before there was one have none.
FILE = "files.json"


def write_list(folder: Path) -> None:
    """Adds the list of all files to a data set that is about to be complete."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    write_text(folder / FILE, json.dumps(sizes, indent=1) + "\n")


def problem(folder: Path) -> str:
    """What is wrong with the files of a data set, with the first one's path; "" where nothing is, or there is no list.

    Only names and sizes are looked at, so that it takes no time.
    """
    try:
        expected = read_json(folder / FILE)
    except FileNotFoundError:
        return ""
    except DataError as error:
        return str(error)
    if not isinstance(expected, dict):
        return f"{folder / FILE} is no list of files"
    for name, size in expected.items():
        try:
            found = (folder / name).stat().st_size
        except (OSError, ValueError) as error:
            return f"{folder / name} cannot be read: {reason(error, named=folder / name)}"
        if found != size:
            return f"{folder / name} has {found:,} bytes and not {size:,}, as it was written"
    return ""


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of a split, {image: bytes, label: int, ...}, by their numbers, one or several at once.

    Raises DataError, with the file and the way out, for what cannot be read.
    """

    source: Any  # TFDS's
    files: tuple[str, ...]  # their paths, in order
    ends: tuple[int, ...]  # for each file: the number of the first record behind it
    way_out: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, number: int) -> Any:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> Sequence[Any]:
        try:
            return self.source.__getitems__(numbers)
        except Exception as error:  # ArrayRecord and TFDS have no common type for what is damaged
            raise DataError(f"{self._damaged(numbers)}: cannot be read ({reason(error)}); {self.way_out}") from error

    def _damaged(self, numbers: Sequence[int]) -> str:
        """The file with the first of some records that cannot be read: the error of many does not say which."""
        for number in numbers:
            try:
                self.source[number]
            except Exception:
                return self.files[bisect.bisect_right(self.ends, number)]
        return self.files[0]


def records(builder: tfds.core.DatasetBuilder, split: str, way_out: str) -> Records:
    """The records of a split, or of a sum of splits, their pictures still encoded. way_out: ends messages.

    Raises DataError where a file cannot be opened, or ends early: the last record of each is read, so that most damage
    is found now and not hours later.
    """
    import tensorflow_datasets as tfds

    files = [file for file in builder.info.splits[split].file_instructions if file.take]
    for file in files:
        if (path := Path(file.filename)).exists() and not path.is_file():  # a pipe would be waited for
            raise DataError(f"{path}: is no file; {way_out}")
    source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    ends = tuple(itertools.accumulate(file.take for file in files))
    found = Records(source, tuple(str(file.filename) for file in files), ends, way_out)
    found.__getitems__([end - 1 for end in ends])
    return found
