"""Damaged files of a prepared data set: one line with the file and the command, whoever reads them."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines import stored
from data_pipelines.audit import audit
from data_pipelines.common.errors import DataError
from data_pipelines.labels import EMOTIONS
from data_pipelines.prepare import prepare, read_info
from data_pipelines.splits import open_split
from expressnet_jax import cli
from tests.conftest import TINY

NAME = "synthetic_faces/tiny"
SHARD = "synthetic_faces-{}.array_record-00000-of-00001"


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def zeros_inside(path: Path) -> None:
    """In the middle, where it shows only once those records are read."""
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(1 << 16) + data[middle + (1 << 16) :])


def fewer(path: Path) -> None:
    """Another file in its place, whole, with too few records."""
    shutil.copyfile(path.with_name(SHARD.format("validation")), path)


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


#: The damage, and whether it changes a size.
DAMAGE = {cut: True, zeros: False, zeros_inside: False, fewer: True, nothing: True, pipe: True, Path.unlink: True}


@pytest.fixture
def copy(data_dir: Path, tmp_path: Path) -> Path:
    """A folder of data sets that may be damaged."""
    return Path(shutil.copytree(data_dir, tmp_path / "data"))


def shard(copy: Path, split: str = "train") -> Path:
    return copy / NAME / "1.0.0" / SHARD.format(split)


def refused(call: Callable[[], object], file: Path, copy: Path) -> str:
    with pytest.raises(DataError) as caught:
        call()
    said = str(caught.value)
    assert said.startswith(str(file)) and "\n" not in said
    assert said.endswith(f"; run: expressnet data prepare {NAME} --data_dir {copy} --overwrite")
    return said


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line_with_the_file_and_the_way_out(damage: Callable, listed: bool, copy: Path) -> None:
    path = shard(copy)
    damage(path)
    if not listed:  # prepared before there was a list
        path.with_name(stored.FILE).unlink()

    def read() -> None:
        for record in open_split(NAME, "test+train", EMOTIONS, data_dir=str(copy)).scan():
            assert record["image"]

    refused(read, path, copy)
    refused(lambda: audit.audit(NAME, data_dir=str(copy)), path, copy)
    if listed and DAMAGE[damage]:
        refused(lambda: read_info(NAME, str(copy)), path, copy)


def test_most_damage_is_found_when_a_split_is_opened(copy: Path) -> None:
    shard(copy).with_name(stored.FILE).unlink()
    for damage in (zeros, cut, Path.unlink):
        damage(shard(copy))
        refused(lambda: open_split(NAME, "train", EMOTIONS, data_dir=str(copy)), shard(copy), copy)
    assert len(open_split(NAME, "test", EMOTIONS, data_dir=str(copy))) == 64  # nobody reads the others


def test_what_is_damaged_is_not_called_prepared_and_can_be_prepared_again(copy: Path) -> None:
    whole = shard(copy).read_bytes()
    cut(shard(copy))
    said = refused(lambda: prepare(NAME, None, data_dir=str(copy)), shard(copy), copy)
    assert f"has {len(whole) // 2:,} bytes and not {len(whole):,}" in said
    assert not prepare(NAME, None, data_dir=str(copy), overwrite=True)["already_prepared"]
    assert shard(copy).read_bytes() == whole and prepare(NAME, None, data_dir=str(copy))["already_prepared"]


def test_a_data_set_of_before_there_was_a_list_is_taken_as_it_is(copy: Path) -> None:
    shard(copy).with_name(stored.FILE).unlink()
    assert prepare(NAME, None, data_dir=str(copy))["already_prepared"]


def test_the_list_names_all_files_and_is_itself_checked(copy: Path) -> None:
    path = shard(copy).with_name(stored.FILE)
    folder = path.parent
    assert {name: (folder / name).stat().st_size for name in os.listdir(folder) if name != stored.FILE} == json.loads(
        path.read_text()
    )
    for content, why in (("{", "cannot be read"), ("[]", "no list of files"), ('{"a\\u0000": 1}', "cannot be read"),
                         ('{"x": 1}', "x cannot be read: No such file")):  # fmt: skip
        path.write_text(content)
        assert why in stored.problem(folder)
        with pytest.raises(DataError, match=f"{why}.*--overwrite"):
            read_info(NAME, str(copy))


def test_training_ends_with_the_line_and_leaves_no_folder(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zeros(shard(copy))
    assert cli.main(["train", f"--config={TINY}", "--workdir", str(copy / "run"), "--data_dir", str(copy)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"expressnet: {shard(copy)}: cannot be read (") and said.count("\n") == 1
    assert not (copy / "run").exists()
