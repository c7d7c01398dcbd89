"""The sha256 of every file of a checkpoint: written into it before it is complete, compared before it is used.

Orbax and TensorStore notice a file that is gone, but of damaged bytes few: most give other weights without a word.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.common.errors import DataError
from data_pipelines.common.files import read_json, read_object, to_disk, write_text
from data_pipelines.common.text import reason

#: Where they lie in a checkpoint: in the folder of the JSON record, whose reader looks for no file but its own.
FILE = Path("record") / "digests.json"
RECORD = Path("record") / "metadata"  # the JSON record, as Orbax calls it
#: True in the record of a checkpoint that has digests.
SEALED = "digests"
#: Files of Orbax's that are still written when all others are there; no number of a run is in them.
_LATE = ("_CHECKPOINT_METADATA", "commit_success.txt")


def write(folder: Path) -> None:
    """Adds the digests of all files to a checkpoint that is about to be complete, and sees all of it onto the disk: a
    loss of power would else leave the name and not the bytes."""
    found = {path.relative_to(folder).as_posix(): sha256(path) for path in _files(folder)}
    for name in found:
        to_disk(folder / name)
    write_text(folder / FILE, json.dumps(found, indent=1) + "\n", durable=True)


def problem(folder: Path, only: Path | None = None) -> str:
    """What is damaged in a checkpoint, in a few words with the file's name; "" where nothing is, or nothing is known.

    With `only`, that file alone is looked at. A checkpoint of a version before there were digests has none, and so has
    no problem while both its parts are there. Raises DataError for what is there and may not be read: a file of another
    user, or a disk of the network that does not answer, is no damage.
    """
    try:
        expected = read_json(folder / FILE)
    except FileNotFoundError:
        return _unsealed(folder)
    except DataError as error:
        return _damage(folder / FILE, error)
    if not isinstance(expected, dict):
        return f"{folder / FILE} holds no digests"
    for name, digest in expected.items():
        if only and name != only.as_posix():
            continue
        if name.startswith("/") or ".." in Path(name).parts or (folder / name).is_symlink():
            return f"{FILE} names {name!r}, which is no file of a checkpoint"
        if (folder / name).exists() and not (folder / name).is_file():  # a pipe would be waited for
            return f"{name} is no file"
        try:
            found = sha256(folder / name)
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        except OSError as error:
            raise _unreadable(folder / name, error) from None
        except ValueError as error:
            return f"{name} cannot be read ({reason(error)})"
        if found != digest:
            return f"{name} is not what was written (sha256 {found[:12]}..., was {str(digest)[:12]}...)"
    step = "" if only else read_object(folder / RECORD).get("step", "")
    return f"it is the checkpoint of step {step} under another name" if str(step) not in ("", folder.name) else ""


def _damage(path: Path, error: DataError) -> str:
    """What is wrong with a file that was not understood. Raises DataError where it could not be read at all."""
    cause = error.__cause__
    if isinstance(cause, OSError) and not isinstance(cause, (NotADirectoryError, IsADirectoryError)):
        raise _unreadable(path, cause) from None
    return str(error)


def _unreadable(path: Path, error: OSError) -> DataError:
    way_out = "make it readable, or move its checkpoint away to do without it"
    return DataError(f"{path} cannot be read ({reason(error, named=path)}), which is no damage: {way_out}")


def _unsealed(folder: Path) -> str:
    try:
        record = read_json(folder / RECORD)
    except FileNotFoundError:
        return f"{RECORD} is missing"
    except DataError as error:
        return _damage(folder / RECORD, error)
    if not isinstance(record, dict) or record.get(SEALED):
        return f"{FILE} is missing"
    return "" if any((folder / "state").glob("*")) else "state is missing"


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (*_LATE, FILE.name))
