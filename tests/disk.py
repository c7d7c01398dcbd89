"""Files as users have them, for tests: written as a folder, packed, damaged."""

import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write(root: Path, files: Mapping[str, bytes | str]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def pack(root: Path, kind: str) -> Path:
    """The folder as it is ("folder"), or a "zip", "tar", "tar.gz" or "tar.xz" with its members in reverse order."""
    if kind == "folder":
        return root
    paths = sorted((path for path in root.rglob("*") if path.is_file()), reverse=True)
    archive = root.with_name(f"{root.name}.{kind}")
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for path in paths:
                zipped.write(path, path.relative_to(root.parent))
    else:
        mode: Any = f"w:{kind.partition('.')[2]}"
        with tarfile.open(archive, mode) as tar:
            for path in paths:
                tar.add(path, path.relative_to(root.parent))
    return archive


def damaged(path, how, rng):
    """Damages a file as disks and copies do."""
    content = path.read_bytes()
    if how == "removed":
        path.unlink()
    elif how == "flipped":
        place = rng.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
    else:
        path.write_bytes(content[: 0 if how == "emptied" else rng.randrange(len(content))])
