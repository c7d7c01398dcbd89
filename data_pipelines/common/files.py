"""Files and folders that are there whole or not at all, and locks on them."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_pipelines.common.errors import DataError, UsageError
from data_pipelines.common.text import reason

_LONGEST_NAME = 255  # bytes that a file system takes
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # of one / too: that is what a Path makes of ://


def elsewhere(text: str) -> str:
    """Why a text is no path here, with the way out: it is an address, such as gs://bucket/run; "" where it is a path.

    Taken for a path, an address would be a new folder here, called `gs:`.
    """
    if not _ADDRESS.match(text):
        return ""
    way_out = "mount the bucket (gcsfuse, or GKE's CSI driver for it) or copy what is there, and give that path"
    return f"{text} is no path on this machine, and nothing else is read or written; {way_out}"


def undecodable(text: str) -> str:
    """Why a path is none that libraries take, which want text: it is not UTF-8; "" where it is."""
    whole = os.path.abspath(text)
    try:
        whole.encode()
    except UnicodeEncodeError:
        return f"{whole!r} is not UTF-8; rename it"
    return ""


def local(what: str, path: str | os.PathLike[str]) -> Path:
    """A path that libraries read or write, `~` put in. Raises UsageError where it is empty, an address or no text."""
    text = os.fspath(path)
    if why := elsewhere(text) or undecodable(text) or ("" if text else "it is empty; give a path"):
        raise UsageError(f"{what}: {why}")
    return Path(text).expanduser()


def check_file(what: str, path: Path) -> None:
    """Raises DataError, before any work, where no file can be written to `path`; `what` is the option that gave it.

    The folder must be there: a file is asked for, and no folders on the way to it.
    """
    _check_names(what, path)
    if path.is_dir():
        raise DataError(f"{what} {path} is a folder; name a file")
    if path.exists() and not path.is_file():
        raise DataError(f"{what} {path} is neither a file nor a folder; name a file")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise DataError(f"{what} {path}: there is no folder {folder}; make it, or choose another place")
    _check_permission(what, path, folder)


def check_folder(what: str, path: Path) -> None:
    """Raises DataError, before any work, where a folder cannot be made at `path`, or nothing be written to it."""
    _check_names(what, path)
    there = path.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise DataError(f"{what} {path}: {there} is no folder; choose another place")
    _check_permission(what, path, there)


def _check_names(what: str, path: Path) -> None:
    if longest := [part for part in path.parts if len(os.fsencode(part)) > _LONGEST_NAME]:
        long = f"{len(os.fsencode(longest[0])):,} bytes are too long for a name, which has at most {_LONGEST_NAME}"
        raise UsageError(f"{what} {path}: {long}; choose another one")


def _check_permission(what: str, path: Path, folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(f"{what} {path}: nothing can be written in {folder}; allow it, or choose another place")


def read_json(path: Path, largest: int = 64 << 20) -> Any:
    """What a JSON file of at most `largest` bytes holds; NaN and infinity are taken for numbers.

    Raises FileNotFoundError where there is no file, since only the caller knows what that means, and DataError, in one
    line with the path, where it cannot be read: another encoding than UTF-8, no JSON, too deep, a pipe or a folder.
    """
    try:
        size = path.stat().st_size
        if not path.is_file() or size > largest:
            raise ValueError(f"it is no file of at most {largest:,} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {reason(error, named=path)}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file that may be missing: empty where it is, or cannot be read, or holds something else."""
    try:
        found = read_json(path)
    except (OSError, DataError):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a name beside `path` to write to; the file takes its place at the end, and is gone after a failure.

    So neither a full disk nor a kill leaves half a file. A link at `path` is replaced, not what it leads to.
    """
    part = path.with_name(f"{path.name}.part")
    if len(os.fsencode(part.name)) > _LONGEST_NAME:
        part = path.with_name(f"{hashlib.sha256(os.fsencode(path.name)).hexdigest()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Writes a whole file in UTF-8, or none of it; `durable`: also where power is lost right after it."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
        if durable:
            to_disk(part)


def to_disk(path: Path) -> None:
    """Returns when the disk has what was written to a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def replace_folder(new: Path, target: Path, *, aside: Path) -> None:
    """Puts the folder `new` at `target`; what was there goes to `aside`, and comes back if that fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        new.rename(target)
        return
    target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        aside.rename(target)
        raise


@contextlib.contextmanager
def locked(path: Path, busy: Exception) -> Iterator[int]:
    """Holds the lock file at `path`, which is made where it is not there. Raises `busy` where another process holds it.

    Gives the open file's number. The system frees a lock when its process ends, however that happens.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        yield file.fileno()


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock file at `path`; False where there is none."""
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two may look at the same moment
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def walk(top: Path, onerror: Callable[[OSError], object]) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` that follows links to folders, but for those that lead back to a folder that they are in."""
    status = os.stat(top)
    around = {
        os.fspath(top): frozenset({(status.st_dev, status.st_ino)})
    }  # a folder still to be read, and all above it
    for folder, folders, files in os.walk(top, onerror=onerror, followlinks=True):
        above = around.pop(folder)
        for name in folders.copy():
            path = os.path.join(folder, name)
            try:
                status = os.stat(path)
            except OSError as error:  # it has just vanished
                onerror(error)
                folders.remove(name)
                continue
            if (identity := (status.st_dev, status.st_ino)) in above:
                folders.remove(name)
            around[path] = above | {identity}
        yield folder, folders, files
