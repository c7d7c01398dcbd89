"""An artifact in a zip or in Hugging Face's cache is the same artifact, and a hostile zip is refused in one line."""

import random
import stat
import tempfile
import zipfile

import numpy as np
import pytest

from expressnet_jax.config import files as config_files
from expressnet_jax.export import artifact, packed
from tests.conftest import TINY
from tests.unit.test_predict import write_artifact


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = write_artifact(tmp_path_factory.mktemp("made") / "small", config_files.load(TINY))
    (made / "README.md").write_text("a card")
    return made


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory, monkeypatch):
    """Where zips are unpacked: empty again after each test."""
    where = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(where))
    yield where
    assert list(where.iterdir()) == []


def zipped(folder, path, below="", **more):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{below}{file.name}")
        for name, data in more.items():
            archive.writestr(name, data)
    return path


def snapshot(folder, cache, name, main=""):
    """As huggingface_hub lays a repository out: snapshots/<commit>/<file> -> ../../blobs/<sum>."""
    (cache / "blobs").mkdir(parents=True, exist_ok=True)
    (cache / "refs").mkdir(exist_ok=True)
    if main:
        (cache / "refs" / "main").write_text(main)
    for number, file in enumerate(sorted(folder.iterdir())):
        (cache / "blobs" / f"{name}{number}").write_bytes(file.read_bytes())
        at = cache / "snapshots" / name / file.name
        at.parent.mkdir(parents=True, exist_ok=True)
        at.symlink_to(f"../../blobs/{name}{number}")
    return cache / "snapshots" / name


def check(found, folder):
    expected = artifact.read(folder)
    assert found.meta == expected.meta and found.config == expected.config
    assert all(np.array_equal(found.weights[name], value) for name, value in expected.weights.items())


@pytest.mark.parametrize("below", ["", "small/"])
def test_a_zip_is_its_artifact(folder, tmp_path, below):
    path = zipped(folder, tmp_path / "a.zip", below)
    found = packed.read(path)
    check(found, folder)
    assert found.path == path


def test_a_snapshot_is_its_artifact(folder, tmp_path):
    cache = tmp_path / "models--me--small"
    check(packed.read(snapshot(folder, cache, "0" * 40)), folder)
    check(packed.read(cache), folder)
    other = snapshot(folder, cache, "1" * 40, main="0" * 40)
    (other / "model.safetensors").unlink()
    check(packed.read(cache), folder)  # the one that main names
    (cache / "refs" / "main").write_text("../../elsewhere")
    with pytest.raises(artifact.ArtifactError, match="it has no one snapshot"):
        packed.read(cache)
    blob = (cache / "snapshots" / ("0" * 40) / "model.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\1")
    with pytest.raises(artifact.ArtifactError, match=r"model\.safetensors is damaged or was changed"):
        packed.read(cache / "snapshots" / ("0" * 40))


def test_of_several_artifacts_none_is_guessed(folder, tmp_path):
    for name in "ab":
        (tmp_path / name).symlink_to(folder)
    with pytest.raises(artifact.ArtifactError, match=r"holds 2 artifacts \(a, b\)"):
        packed.read(tmp_path)


def refused(path, said):
    with pytest.raises(artifact.ArtifactError) as caught:
        packed.read(path)
    assert said in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/../../evil", "..\\evil"])
def test_a_path_outside_is_refused(folder, tmp_path, name):
    path = tmp_path / "a" / "b" / "a.zip"
    path.parent.mkdir(parents=True)
    refused(zipped(folder, path, **{name: "x"}), "a path or link out")
    assert not list(tmp_path.rglob("evil"))


def test_a_link_is_refused(folder, tmp_path):
    path = zipped(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("passwords")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    refused(path, "'passwords', a path or link out")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, folder):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("config.json", "w") as file:
        for _ in range(80):
            file.write(bytes(1 << 20))
    refused(path, "it unpacks to 1 file of 83,886,080 bytes")
    refused(zipped(folder, tmp_path / "many.zip", **{f"n{i}": "" for i in range(1000)}), "1,003 files of")


def test_a_list_that_lies_about_a_size_does_not_unpack_more(folder, tmp_path):
    """The list says 10 bytes, the data are 80 MB."""
    path = tmp_path / "liar.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", bytes(80 << 20))
    data, true = bytearray(path.read_bytes()), (80 << 20).to_bytes(4, "little")
    for _ in range(data.count(true)):
        at = data.index(true)
        data[at : at + 4] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    refused(path, "cannot be unpacked: Bad CRC-32")


def test_what_is_no_artifact_is_said(folder, tmp_path):
    refused(folder / "model.safetensors", "it is neither a folder nor a whole zip")
    refused(tmp_path / "none", "it is no folder")
    refused(zipped(folder, tmp_path / "twice.zip", "a/", a="a file, and a folder"), "cannot be unpacked")
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").touch()
    refused(zipped(other, tmp_path / "other.zip"), f"no artifact in {tmp_path / 'other.zip'}: it has no config.json")


def test_a_damaged_zip_is_one_line_or_the_artifact(folder, tmp_path):
    whole, rng, read = zipped(folder, tmp_path / "a.zip").read_bytes(), random.Random(0), 0
    path = tmp_path / "b.zip"
    for _ in range(60):
        data = bytearray(whole)
        at = rng.choice([rng.randrange(len(data)), len(data) - rng.randrange(1, 400)])  # often in its list
        data[at] ^= 1 << rng.randrange(8)
        path.write_bytes(data[: rng.choice([len(data), len(data), rng.randrange(len(data))])])
        try:
            check(packed.read(path), folder)
            read += 1
        except artifact.ArtifactError as error:
            assert "\n" not in str(error)
    assert read < 60
