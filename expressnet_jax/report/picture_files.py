"""Pictures from the folder of a run, for a page that is given to others: none but those that lie in the folder."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

_LARGEST = 20_000_000  # bytes; ours have at most about 2 million
_PNG = b"\x89PNG\r\n\x1a\n"


def as_uri(path: Path, folder: Path) -> str | None:
    """The PNG file as a data: URI, "" where something else has its place, and None where nothing has.

    A folder may come from a stranger. A link in it must not bring another file of this machine onto the page, and a
    pipe must not keep the report waiting.
    """
    try:
        with open(path, "rb", opener=_opened) as file:
            known = stat.S_ISREG(os.fstat(file.fileno()).st_mode) and _lies_in(path, folder)
            data = file.read(_LARGEST + 1) if known else b""
    except FileNotFoundError:
        return None
    except OSError:
        return ""
    if not data.startswith(_PNG) or len(data) > _LARGEST:
        return ""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _lies_in(path: Path, folder: Path) -> bool:
    """Also by its real name: a folder on the way may be a link."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
