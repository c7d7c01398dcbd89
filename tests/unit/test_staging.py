"""An interrupted preparation goes on where it stopped, ends with the same files, and never mixes two tasks."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import pictures, staging
from data_pipelines.common.errors import DataError
from data_pipelines.prepare import prepare, read_info
from tests.disk import write
from tests.unit.test_fer2013_builder import encode, face, folders


def files(root: Path) -> dict[str, str]:
    """Every file of a prepared data set by its content; where it came from is part of the metadata."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def contents(root: Path) -> list[object]:
    """Every example in order, and the files beside them. Bytes of examples differ from one process to the next: their
    format leaves the order of fields open."""
    builder = read_info("fer2013", str(root))
    decoders = {"image": tfds.decode.SkipDecoding()}
    sources = [builder.as_data_source(split, decoders=decoders) for split in sorted(builder.info.splits)]
    return [list(source) for source in sources] + [{k: v for k, v in files(root).items() if k.endswith(".json")}]


def tar(path: Path, content: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


class StoreUntil:
    """`pictures.store` that is interrupted after so many pictures, and counts."""

    def __init__(self, last: int) -> None:
        self.calls, self._last, self._store = 0, last, pictures.store

    def __call__(self, *args):
        self.calls += 1
        if self.calls > self._last:
            raise KeyboardInterrupt
        return self._store(*args)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(staging, "PART", 5)
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # four pictures at most are then under way


@pytest.mark.parametrize("archive", [False, True])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_files(archive, tmp_path, monkeypatch, small_parts):
    content = folders() | {"train/happy/Training_90.png": b"broken"}
    source = write(tmp_path / "fer", content)
    if archive:  # whose order is not that of the names
        source = tar(tmp_path / "fer.tar", dict(reversed(content.items())))
    prepare("fer2013", str(source), data_dir=str(tmp_path / "whole"))
    interrupted = StoreUntil(14)  # eight are for training
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match=r"^interrupted; 1\d finished"):
        patch.setattr(pictures, "store", interrupted)
        prepare("fer2013", str(source), data_dir=str(tmp_path / "data"))
    rest = StoreUntil(100)
    monkeypatch.setattr(pictures, "store", rest)
    report = prepare("fer2013", str(source), data_dir=str(tmp_path / "data"))
    assert rest.calls <= 22 - 10
    assert [entry["path"] for entry in report["skipped"]] == ["train/happy/Training_90.png"]
    assert files(tmp_path / "data") == files(tmp_path / "whole")  # to the byte


def test_another_task_does_not_go_on_with_old_parts(tmp_path, monkeypatch, small_parts):
    source = write(tmp_path / "fer", folders())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pictures, "store", StoreUntil(14))
        prepare("fer2013", str(source), data_dir=str(tmp_path / "data"))
    every = StoreUntil(100)
    monkeypatch.setattr(pictures, "store", every)
    prepare("fer2013", str(source), data_dir=str(tmp_path / "data"), side=32)
    assert every.calls == 21


def interrupted(tmp_path, monkeypatch):
    """The source and the parts of a run that was interrupted after two of them."""
    source = str(write(tmp_path / "fer", folders()))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pictures, "store", StoreUntil(14))
        prepare("fer2013", source, data_dir=str(tmp_path / "data"))
    return source, sorted((tmp_path / "data").rglob("part-*.json"))


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"taken": 5}', "\udcff"])
def test_a_part_whose_list_is_damaged_is_made_again(content, tmp_path, monkeypatch, small_parts):
    source, lists = interrupted(tmp_path, monkeypatch)
    lists[0].write_text(content, errors="surrogateescape")
    report = prepare("fer2013", source, data_dir=str(tmp_path / "data"))
    assert {split: found["examples"] for split, found in report["splits"].items()} == dict.fromkeys(report["splits"], 7)
    prepare("fer2013", source, data_dir=str(tmp_path / "whole"))
    assert files(tmp_path / "data") == files(tmp_path / "whole")


def test_damaged_pictures_of_a_part_are_one_line_and_the_next_run_begins_anew(tmp_path, monkeypatch, small_parts):
    source, lists = interrupted(tmp_path, monkeypatch)
    records = lists[0].with_suffix(".array_record")
    records.write_bytes(bytes(records.stat().st_size))
    with pytest.raises(DataError, match=r"finished pictures in .*parts/.* are damaged .* run the same command again"):
        prepare("fer2013", source, data_dir=str(tmp_path / "data"))
    assert prepare("fer2013", source, data_dir=str(tmp_path / "data"))["splits"]["train"]["examples"] == 7


def test_two_at_once_are_refused(tmp_path):
    with (
        staging.workplace(tmp_path, "fer2013", {"a": 1}),
        pytest.raises(DataError, match="another process is preparing fer2013"),
        staging.workplace(tmp_path, "fer2013", {"a": 1}),
    ):
        pass


def test_a_killed_run_goes_on(tmp_path):
    rng = np.random.default_rng(0)
    classes = ("happy", "sad")
    content = {
        f"train/{classes[i % 2]}/{i:05}.png": encode(rng.integers(0, 256, (8, 8), np.uint8)) for i in range(6000)
    }
    source = str(write(tmp_path / "fer", content | {"test/happy/0.png": encode(face(1, (8, 8)))}))
    prepare("fer2013", source, data_dir=str(tmp_path / "whole"))
    call = "import sys; from data_pipelines.prepare import prepare; prepare(*sys.argv[1:3], data_dir=sys.argv[3])"
    command = [sys.executable, "-c", call, "fer2013", source, str(tmp_path / "data")]
    running = subprocess.Popen(command)
    first = tmp_path / "data/incomplete.fer2013/parts/train/part-00000.json"
    deadline = time.monotonic() + 60
    while not first.exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    assert first.exists() and os.listdir(tmp_path / "data") == ["incomplete.fer2013"]
    stamp = first.stat().st_mtime_ns
    again = subprocess.Popen(command)
    while again.poll() is None and first.exists():
        assert first.stat().st_mtime_ns == stamp
        time.sleep(0.01)
    assert again.wait() == 0
    assert os.listdir(tmp_path / "data") == ["fer2013"]
    assert contents(tmp_path / "data") == contents(tmp_path / "whole")
