"""Folders, archives and single files are read alike; hostile and damaged ones do no harm and say what is wrong."""

import errno
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipelines import sources
from data_pipelines.common.errors import DataError

FILES = {"a/one.txt": b"first", "a/b/two.bin": os.urandom(5000), "zero": b"", "ä/ö.txt": "ü".encode()}
JUNK = {"__MACOSX/a/._one.txt": b"x", "a/._one.txt": b"x", ".DS_Store": b"x", "a/Thumbs.db": b"x"}


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_tar(path: Path, files: dict[str, bytes], extra: tuple[tarfile.TarInfo, ...] = ()) -> Path:
    mode: Any = "w:" + {".gz": "gz", ".xz": "xz", ".bz2": "bz2"}.get(path.suffix, "")
    with tarfile.open(path, mode) as archive:
        for member in extra:
            archive.addfile(member)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


WRITERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "folder": write_folder,
    "x.tar": write_tar,
    "x.tar.gz": write_tar,
    "x.tar.xz": write_tar,
    "x.tar.bz2": write_tar,
    "x.zip": write_zip,
    "no_suffix": write_tar,
}
ARCHIVES = ["x.tar", "x.tar.gz", "x.tar.xz", "x.tar.bz2", "x.zip"]


@pytest.mark.parametrize("kind", WRITERS)
def test_all_kinds_read_alike(kind: str, tmp_path: Path) -> None:
    source = sources.open_source(WRITERS[kind](tmp_path / kind, FILES | JUNK))
    assert source.names() == sorted(FILES)
    assert dict(source.read(source.names())) == FILES
    wanted = ["zero", "a/b/two.bin"]
    assert sorted(source.read(wanted)) == sorted((name, FILES[name]) for name in wanted)
    with source.open("a/b/two.bin") as stream:
        assert stream.read(10) + stream.read() == FILES["a/b/two.bin"]


def test_single_file(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"1,2")
    source = sources.open_source(str(tmp_path / "table.csv"))
    assert source.names() == ["table.csv"]
    assert list(source.read(["table.csv"])) == [("table.csv", b"1,2")]


@pytest.mark.parametrize("kind", ["folder", *ARCHIVES])
def test_long_members_are_cut(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_MEMBER_BYTES", 1000)
    source = sources.open_source(WRITERS[kind](tmp_path / kind, {"bomb": bytes(10_000_000), "fine": b"x" * 1000}))
    assert {name: len(data) for name, data in source.read(["bomb", "fine"])} == {"bomb": 1001, "fine": 1000}


def test_tar_links_devices_and_names_outside(tmp_path: Path) -> None:
    hostile = []
    for name, kind in [
        ("link", tarfile.SYMTYPE),
        ("hard", tarfile.LNKTYPE),
        ("device", tarfile.CHRTYPE),
        ("pipe", tarfile.FIFOTYPE),
    ]:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        hostile.append(member)
    files = {"../../outside": b"1", "/absolute/file": b"2", "./here": b"3"}
    inside = tmp_path / "inside"
    inside.mkdir()
    source = sources.open_source(write_tar(inside / "x.tar", files, tuple(hostile)))
    assert dict(source.read(source.names())) == {"absolute/file": b"2", "here": b"3"}
    assert sorted(tmp_path.rglob("*")) == [inside, inside / "x.tar"]


def test_zip_links_and_names_outside(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../../outside", "1")
        archive.writestr("/absolute/file", "2")
        archive.writestr("folder/", "")
        archive.writestr("win\\dows", "3")
    source = sources.open_source(path)
    assert dict(source.read(source.names())) == {"absolute/file": b"2", "win/dows": b"3"}


def test_folder_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", {"a/real": b"1", "b/other": b"2"})
    elsewhere = write_folder(tmp_path / "disk", {"deep/far": b"3"})
    (folder / "linked").symlink_to(folder / "a" / "real")
    (folder / "test").symlink_to(elsewhere)
    (folder / "same").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    (folder / "a" / "up").symlink_to(folder / "b")  # a/up/down would be a again
    (folder / "b" / "down").symlink_to(folder / "a")
    (folder / "dangling").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe")
    source = sources.open_source(folder)
    assert dict(source.read(source.names())) == {
        "a/real": b"1", "linked": b"1", "b/down/real": b"1", "b/other": b"2", "a/up/other": b"2", "test/deep/far": b"3",
        "same/deep/far": b"3",
    }  # fmt: skip


def assert_one_line(error: pytest.ExceptionInfo[DataError], path: Path) -> None:
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def read_all(path: Path) -> None:
    source = sources.open_source(path)
    list(source.read(source.names()))


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_cut_short(kind: str, kept: float, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / kind, {f"{n}": os.urandom(3000) for n in range(20)})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) - 8])
    if kind == "x.tar" and kept > 0.9:
        path.write_bytes(data[: 20 * 3584])  # exactly behind the last member: no end mark
    with pytest.raises(DataError) as error:
        read_all(path)
    assert_one_line(error, path)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_damaged_in_the_middle(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / kind, {f"{n}": os.urandom(3000) for n in range(20)})
    data = bytearray(path.read_bytes())
    place = 10 * 3584 if kind == "x.tar" else len(data) // 2  # a member's header, where tarfile alone stops silently
    data[place : place + 100] = os.urandom(100)
    path.write_bytes(data)
    with pytest.raises(DataError) as error:
        read_all(path)
    assert_one_line(error, path)


def test_encrypted_zip(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a": b"secret"})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag in the member's own header, and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="encrypted") as error:
        read_all(path)
    assert_one_line(error, path)


@pytest.mark.parametrize("name", ["x.zip", "x.tar.xz", "x.tgz"])
def test_archive_that_is_none(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="not a readable archive"):
        sources.open_source(tmp_path / name)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file or folder") as error:
        sources.open_source(tmp_path / "nowhere")
    assert_one_line(error, tmp_path / "nowhere")


def test_neither_file_nor_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="neither a folder nor a file"):
        sources.open_source(tmp_path / "pipe")


@pytest.mark.parametrize("kind", ["folder", "x.tar.xz", "x.zip"])
def test_fingerprint_follows_content(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / kind, FILES)
    before = sources.open_source(path).fingerprint()
    assert sources.open_source(path).fingerprint() == before
    WRITERS[kind](path, FILES | {"zero": b"1"})
    assert sources.open_source(path).fingerprint() != before


def test_archive_read_stops_at_the_last_wanted_member(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"first": b"1", "second": b"2" * 600})
    path.write_bytes(path.read_bytes()[:1600])  # the second is damaged, the first is not
    assert list(sources.open_source(path).read(["first"])) == [("first", b"1")]


def test_a_link_to_itself_and_a_forbidden_file_are_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "loop.png").symlink_to("loop.png")
    with pytest.raises(DataError, match=r"links: .*loop\.png\); remove the link"):
        sources.open_source(tmp_path).names()
    (tmp_path / "loop.png").unlink()

    def forbidden(*args: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a.png"))

    monkeypatch.setattr(Path, "open", forbidden)  # whoever runs this test may be allowed everything
    with pytest.raises(DataError, match=r"a\.png: cannot be read .*give yourself permission"):
        list(sources.open_source(tmp_path).read(["a.png"]))
