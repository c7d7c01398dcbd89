"""Where an artifact is: its folder, a zip of it, or what Hugging Face's client has downloaded, with links to its blobs.

A zip comes from a stranger: it is unpacked to a folder of ours that only its owner reads, within bounds, and is gone
when the weights are in memory.
"""

import contextlib
import dataclasses
import lzma
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from data_pipelines.common.files import read_object
from data_pipelines.common.text import counted, reason, some
from expressnet_jax.export import artifact
from expressnet_jax.export.artifact import CONFIG, Artifact, ArtifactError

_MOST_FILES = 1000  # in a zip; an artifact has some 15
_LARGEST = 16 << 30  # bytes of all of them
_DENSEST = 20  # times the zip's own size: weights hardly become smaller
_CORRUPT = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError, ValueError)


def read(path: Path) -> Artifact:
    """`artifact.read` of the artifact in a folder, a zip, or a snapshot or repository in Hugging Face's cache.

    Raises ArtifactError, also where there are several.
    """
    if not path.is_file():
        return artifact.read(_find(path))
    with tempfile.TemporaryDirectory(prefix="expressnet_jax.") as folder:
        _unpack(path, Path(folder))
        try:
            return dataclasses.replace(artifact.read(_find(Path(folder))), path=path)
        except ArtifactError as error:
            raise ArtifactError(str(error).replace(folder, str(path))) from None


def _find(folder: Path) -> Path:
    """The folder that holds the artifact: this one, or the only one in it that does; else this one, for its reader."""
    folder = _snapshot(folder)
    if (folder / CONFIG).exists() or not folder.is_dir():
        return folder
    found = sorted(path.parent for path in folder.glob(f"*/{CONFIG}") if "format" in read_object(path))
    if len(found) > 1:
        names = some([path.name for path in found], 3)
        raise ArtifactError(f"{folder} holds {len(found)} artifacts ({names}); give the folder of one")
    return found[0] if found else folder


def _snapshot(folder: Path) -> Path:
    """Of a repository in Hugging Face's cache, the snapshot that `main` names, or the only one; else the folder."""
    if not (folder / "snapshots").is_dir():
        return folder
    found, main = sorted((folder / "snapshots").iterdir()), ""
    with contextlib.suppress(OSError, ValueError), (folder / "refs" / "main").open() as file:
        main = file.read(100).strip()
    if len(found) != 1:
        found = [path for path in found if path.name == main]
    if not found:
        raise ArtifactError(f"no artifact in {folder}: it has no one snapshot; give the folder of one, snapshots/NAME")
    return found[0]


def _unpack(path: Path, folder: Path) -> None:
    """Raises ArtifactError, before anything is written for what the zip's own list says."""
    if not zipfile.is_zipfile(path):
        raise ArtifactError(f"no artifact at {path}: it is neither a folder nor a whole zip")
    try:
        with zipfile.ZipFile(path) as archive:
            for member, name in _checked(path, archive):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, (folder / name).open("xb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)  # at most `file_size`, which was counted
    except _CORRUPT as error:
        raise ArtifactError(f"{path} cannot be unpacked: {reason(error).replace(f'{folder}/', '')}") from error


def _checked(path: Path, archive: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """The files of a zip with their places in its folder, none of them outside."""
    members = [member for member in archive.infolist() if not member.is_dir()]
    size, most = sum(member.file_size for member in members), min(_LARGEST, _DENSEST * path.stat().st_size + (64 << 20))
    if len(members) > _MOST_FILES or size > most:
        said = f"{counted(len(members), 'file')} of {size:,} bytes (allowed: {_MOST_FILES:,} of {most:,})"
        raise ArtifactError(f"{path} is no zip of an artifact: it unpacks to {said}")
    found = []
    for member in members:
        name, kind = PurePosixPath(member.filename), stat.S_IFMT(member.external_attr >> 16)
        outside = name.is_absolute() or ".." in name.parts or "\\" in member.filename
        if outside or kind not in (0, stat.S_IFREG):  # 0 where it was packed on Windows
            raise ArtifactError(f"{path} is no zip of an artifact: it has {member.filename!r:.100}, a path or link out")
        found.append((member, name))
    return found
