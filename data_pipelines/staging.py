"""Finished pictures of one split on their way into a data set, in files of a few thousand that survive an interruption.

The source decides in which order pictures come (an archive has its own), the data set in which order they are stored,
and they may not all fit into memory. So they are written as they come, part by part, and then read in order. A part
counts once its list is beside it; what an interruption leaves half-written is written again.
"""

import contextlib
import functools
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from array_record.python import array_record_data_source, array_record_module

from data_pipelines.common.errors import DataError
from data_pipelines.common.files import locked, read_object, write_text
from data_pipelines.common.text import counted, one_line, reason

#: What is kept of stored pictures: place in the order, bytes, label, height x width x channels; and the {path, why} of
#: those that are bad, and not stored, and of those kept whole for want of a face.
KEYS = ("orders", "sizes", "labels", "shapes", "bad", "whole")
PART = 2048  # pictures that an interruption can cost
_SHARD_BYTES = 64 << 20
_AT_ONCE = 256  # records that are read together


def read_records(records: Any, numbers: Sequence[int] | np.ndarray) -> Iterator[Any]:
    """Records by their numbers, one at a time; `records` gives several at once by `__getitems__`, which is faster."""
    for start in range(0, len(numbers), _AT_ONCE):
        yield from records.__getitems__([int(number) for number in numbers[start : start + _AT_ONCE]])


#: Starts to stream the records of a shard, each with its position in the split.
Shard = Callable[[], Iterator[tuple[int, bytes]]]


class Finished(NamedTuple):
    """One picture as it will be stored, or why it will not be."""

    record: bytes  # serialized example; empty where the picture is bad
    values: dict[str, Any]  # what `Stage.values` gives of it, by key


class Stage:
    """The parts of one split, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        """Goes on from the whole parts that are there."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        lists = (read_object(self._path(part, "json")) for part in itertools.count())
        self._lists = list(itertools.takewhile(lambda part: {"taken", *KEYS} <= part.keys(), lists))

    def _path(self, part: int, suffix: str) -> Path:
        return self._folder / f"part-{part:05}.{suffix}"

    @property
    def taken(self) -> int:
        """How many pictures of the source the parts account for, bad ones included."""
        return sum(part["taken"] for part in self._lists)

    def values(self, key: str) -> list[Any]:
        """One of KEYS of all pictures that have it."""
        return [value for part in self._lists for value in part[key]]

    def add(self, pictures: Iterator[Finished]) -> None:
        """Writes pictures until there are no more."""
        while first := list(itertools.islice(pictures, 1)):
            self._write(itertools.chain(first, itertools.islice(pictures, PART - 1)))

    def _write(self, pictures: Iterator[Finished]) -> None:
        number = len(self._lists)
        part: dict[str, Any] = {"taken": 0, **{key: [] for key in KEYS}}
        writer = array_record_module.ArrayRecordWriter(str(self._path(number, "array_record")), "group_size:1")
        for picture in pictures:
            part["taken"] += 1
            if picture.record:
                writer.write(picture.record)
            for key, value in picture.values.items():
                part[key].append(value)
        writer.close()
        write_text(self._path(number, "json"), json.dumps(part))
        self._lists.append(part)

    def shards(self) -> list[Shard]:
        """All records by rising order, in shards of some 64 MB: functions that stream (position, record)."""
        paths = [str(self._path(number, "array_record")) for number, part in enumerate(self._lists) if part["orders"]]
        ranks = np.argsort(self.values("orders"), kind="stable")
        pieces = max(1, min(len(ranks), -(-sum(self.values("sizes")) // _SHARD_BYTES)))

        def stream(numbers: np.ndarray, start: int) -> Iterator[tuple[int, bytes]]:
            try:
                with array_record_data_source.ArrayRecordDataSource(paths) as source:
                    yield from enumerate(read_records(source, numbers), start)
            except RuntimeError as error:  # ArrayRecord's, which compares checksums
                what = f"finished pictures in {self._folder} are damaged ({reason(error)})"
                raise DataError(f"{what}; nothing was kept: run the same command again") from error

        starts = np.linspace(0, len(ranks), pieces + 1).astype(int)
        return [functools.partial(stream, ranks[a:b], int(a)) for a, b in itertools.pairwise(starts)]


@contextlib.contextmanager
def workplace(root: Path, name: str, task: dict[str, Any]) -> Iterator[Path]:
    """A folder for a data set that is being prepared; what an interrupted run of the same `task` finished is in it.

    It is removed when the data set is there, and when it cannot be made, with the empty folders made around it. After
    an interruption or a failure of the disk it stays if it holds whole parts, until the same data set is prepared
    again. Raises DataError where the disk fails or another process works in it; KeyboardInterrupt is raised again with
    a message.
    """
    folder = root / f"incomplete.{name.replace('/', '.')}"
    busy = DataError(f"another process is preparing {name} in {folder}; wait until it is done")
    with contextlib.ExitStack() as stack:
        for path in reversed((root / name, *(root / name).parents)):
            if not os.path.exists(path):
                stack.callback(_remove_if_empty, path)  # the innermost first
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / "lock", busy))
        except OSError as error:
            raise DataError(f"cannot write the data set to {root} ({reason(error)}); nothing was kept") from error
        kept = 0
        try:
            _clear(folder, task)
            yield folder
        except BaseException as error:
            if (why := _interruption(error)) is None:
                raise
            kept = sum(read_object(part).get("taken", 0) for part in folder.glob("parts/*/*.json"))
            finished = f"{counted(kept, 'finished picture')} kept in {folder}; the same command goes on from there"
            what = finished if kept else "nothing was kept"
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(f"interrupted; {what}") from None
            raise DataError(f"cannot write the data set to {root} ({why}); {what}") from error
        finally:
            if not kept:
                shutil.rmtree(folder, ignore_errors=True)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _clear(folder: Path, task: dict[str, Any]) -> None:
    """Leaves in `folder` only parts that belong to this task."""
    written = folder / "task.json"
    shutil.rmtree(folder / "whole", ignore_errors=True)
    if read_object(written) == task:
        return
    shutil.rmtree(folder / "parts", ignore_errors=True)
    written.write_text(json.dumps(task))


def _interruption(error: BaseException) -> str | None:
    """Why work was interrupted that can go on later; None for an error that would occur again."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, OSError):
        return reason(error)
    words = one_line(error)
    if isinstance(error, RuntimeError) and ("write() failed" in words or "Failed to finalize writing" in words):
        return words.split(";")[0][:300]  # ArrayRecord's, for an OSError
    return None
