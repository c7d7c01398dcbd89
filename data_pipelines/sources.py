"""Reads what users have as it is: a folder, a tar of any compression, a zip, or one file; nothing is unpacked.

Archives come from strangers, so nothing in them is ever written to disk, links and devices are ignored, and no
member can make the reader hold more than MAX_MEMBER_BYTES at once.
"""

import contextlib
import errno
import functools
import hashlib
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Generator, Iterator
from pathlib import Path
from typing import IO

from data_pipelines.common.errors import DataError
from data_pipelines.common.files import walk
from data_pipelines.common.text import reason

#: `read` cuts a member one byte beyond this length, so that the receiver can tell that it was too long.
MAX_MEMBER_BYTES = 64 << 20

#: How the names of pictures end that are read here, and of others that people take for pictures, and of tables.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
OTHER_SUFFIXES = (".jfif", ".gif", ".heic", ".heif", ".avif")
TABLE_SUFFIXES = (".csv", ".tsv")

_JUNK = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
_ALLOW = "give yourself permission to read it"
_WAYS_OUT = {errno.EACCES: _ALLOW, errno.EPERM: _ALLOW, errno.ELOOP: "remove the link, which leads back to itself"}
_CORRUPT = (tarfile.TarError, zipfile.BadZipFile, EOFError, lzma.LZMAError, zlib.error, RuntimeError, OSError)


class Source:
    """Named files, wherever they are. By itself it is one file that is no archive; the others are subclasses."""

    def __init__(self, path: Path) -> None:
        """`path` is that of the folder, the archive or the file."""
        self.path = path
        #: Files of which no more need be said: they were read, or a note is about them (`builders.base.left_over`).
        self.accounted: set[str] = set()

    @functools.cached_property
    def _listed(self) -> list[str]:
        return self._list()

    def names(self) -> list[str]:
        """Relative POSIX paths of all regular files, sorted, without the litter that operating systems leave."""
        return list(self._listed)

    def _list(self) -> list[str]:
        return [self.path.name]

    def _where(self, name: str) -> Path:
        """The path that a message about one of the files gives."""
        del name
        return self.path

    def _streams(self, names: Collection[str]) -> Generator[tuple[str, IO[bytes]]]:
        """What `read` reads: each file is open until the next one is asked for."""
        for name in sorted(names):
            with _one_line_errors(self._where(name)), self._where(name).open("rb") as stream:
                yield name, stream

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """One file of any length as a binary stream. Raises DataError if it is not there or cannot be read."""
        with contextlib.closing(self._streams([name])) as streams, _one_line_errors(self._where(name)):
            for _, stream in streams:
                yield stream
                return
        raise DataError(f"{self.path}: has no file {name!r}")

    def read(self, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """The asked-for files, each once, in the order that suits the source (an archive's own order).

        A file longer than MAX_MEMBER_BYTES comes cut to MAX_MEMBER_BYTES + 1 bytes.
        """
        for name, stream in self._streams(names):
            with _one_line_errors(self._where(name)):
                data = stream.read(MAX_MEMBER_BYTES + 1)
            self.accounted.add(name)
            yield name, data

    def fingerprint(self) -> str:
        """Equal for equal content: the file's sha256; for a folder one over names, sizes and times of change."""
        with _one_line_errors(self.path), self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def open_source(path: str | os.PathLike[str]) -> Source:
    """The source at `path`, recognised by content.

    Raises DataError if there is nothing, or an archive that cannot be read.
    """
    where = Path(path).expanduser().absolute()
    try:
        mode = where.stat().st_mode
        if stat.S_ISDIR(mode):
            return _Folder(where)
        if not stat.S_ISREG(mode):
            raise DataError(f"{where}: neither a folder nor a file; give a folder, a tar, a zip or a csv")
        if tarfile.is_tarfile(where):
            return _Tar(where)
        if zipfile.is_zipfile(where):
            return _Zip(where)
    except FileNotFoundError:
        raise DataError(f"{where}: there is no such file or folder; check the path") from None
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {reason(error, named=where)}") from error
    if where.name.lower().endswith(_ARCHIVE_SUFFIXES):
        raise DataError(f"{where}: not a readable archive (damaged, cut short or misnamed); get it again")
    return Source(where)


def _clean(name: str) -> str | None:
    """A member's name as a relative POSIX path; None for litter and for names that point outside."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1] in _JUNK:
        return None
    return "/".join(parts)


@contextlib.contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Turns the many ways in which reading fails into one DataError that names the file."""
    try:
        yield
    except _CORRUPT as error:
        way_out = _WAYS_OUT.get(getattr(error, "errno", None) or 0, "if it was downloaded, get it again")
        raise DataError(f"{path}: cannot be read ({reason(error, named=path)}); {way_out}") from error


def is_picture(name: str) -> bool:
    """Whether a file's name ends like that of a picture; what it truly holds shows when it is decoded."""
    return name.lower().endswith(SUFFIXES)


def is_table(name: str) -> bool:
    """Whether a file's name ends like that of a CSV, compressed or not."""
    return name.lower().removesuffix(".gz").endswith(TABLE_SUFFIXES)


class _Folder(Source):
    """A folder on the user's own disk; links are followed."""

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        def fail(error: OSError) -> None:
            raise error

        root = os.path.join(self.path, "")
        for folder, _, files in walk(self.path, onerror=fail):
            for path in (os.path.join(folder, file) for file in files):
                name = path.removeprefix(root)
                if _clean(name) != name:  # nor has a name with a backslash, which becomes a slash
                    continue
                with contextlib.suppress(FileNotFoundError):  # a dangling link
                    status = os.stat(path)
                    if stat.S_ISREG(status.st_mode):
                        yield name, status

    def _list(self) -> list[str]:
        with _one_line_errors(self.path):
            return sorted(name for name, _ in self._files())

    def _where(self, name: str) -> Path:
        return self.path / name

    def fingerprint(self) -> str:
        with _one_line_errors(self.path):
            files = sorted((name, status.st_size, status.st_mtime_ns) for name, status in self._files())
        return hashlib.sha256(repr(files).encode("utf-8", "surrogateescape")).hexdigest()


class _Tar(Source):
    """A tar, always read from front to back: going back in a compressed one would start it all over."""

    def _members(self, archive: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
        while (member := archive.next()) is not None:
            # Without this it keeps about a kilobyte for every member ever seen.
            archive.members.clear()  # type: ignore[attr-defined]
            name = _clean(member.name)
            if name and member.isreg():
                yield name, member

    def _list(self) -> list[str]:
        with _one_line_errors(self.path), tarfile.open(self.path) as archive:
            names = {name for name, _ in self._members(archive)}
            self._check_end(archive)
        return sorted(names)

    @staticmethod
    def _check_end(archive: tarfile.TarFile) -> None:
        """tarfile takes damage between two members for the end; a true end is zeros up to the file's last byte."""
        stream = archive.fileobj
        assert stream is not None
        complete = stream.tell() > archive.offset
        while complete and (block := stream.read(1 << 16)):
            complete = not any(block)
        if not complete:
            raise tarfile.ReadError("damaged or cut short")

    def _streams(self, names: Collection[str]) -> Generator[tuple[str, IO[bytes]]]:
        wanted = set(names)
        if not wanted:
            return
        with _one_line_errors(self.path), tarfile.open(self.path) as archive:
            for name, member in self._members(archive):
                stream = archive.extractfile(member) if name in wanted else None
                if stream is None:
                    continue
                yield name, stream
                wanted.remove(name)
                if not wanted:  # what follows need not be decompressed
                    return


class _Zip(Source):
    """A zip; its directory is at the end, so its members can be read in any order."""

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
        """The archive, and its members by name, the first of each."""
        with _one_line_errors(self.path), zipfile.ZipFile(self.path) as archive:
            members: dict[str, zipfile.ZipInfo] = {}
            for member in archive.infolist():
                name = _clean(member.filename)
                kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where it was packed on Windows
                if name and not member.is_dir() and kind in (0, stat.S_IFREG):
                    members.setdefault(name, member)
            yield archive, members

    def _list(self) -> list[str]:
        with self._opened() as (_, members):
            return sorted(members)

    def _streams(self, names: Collection[str]) -> Generator[tuple[str, IO[bytes]]]:
        with self._opened() as (archive, members):
            for name in sorted(names):
                with archive.open(members[name]) as stream:
                    yield name, stream
