"""`prepare` finishes a data set or leaves no trace, knows what is already there, and explains itself."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import prepare as prepare_module
from data_pipelines.builders import BUILDERS, builder_class, synthetic_faces
from data_pipelines.common.errors import DataError
from data_pipelines.labels import EMOTIONS, SEVEN
from data_pipelines.prepare import describe, prepare, read_info
from data_pipelines.synthetic import draw, sample_factors
from tests.disk import write
from tests.unit.test_fer2013_builder import encode, examples, face, folders, row, table


def tree(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*"))


@pytest.fixture
def source(tmp_path: Path) -> str:
    return str(write(tmp_path / "fer", {"fer2013.csv": table()}))


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(tmp_path / "data")


def test_report(source: str, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = prepare("fer2013", source, data_dir=data)
    assert capsys.readouterr() == ("", "")  # standard output is for --json, and no bar without a terminal
    assert json.loads(json.dumps(report)) == report
    assert report | {"protocol": "", "notes": []} == {
        "name": "fer2013",
        "layout": "fer2013.csv",
        "protocol": "",
        "splits": {
            split: {"examples": 7, "classes": dict.fromkeys(SEVEN, 1)}
            for split in ("train", "public_test", "private_test")
        },
        "skipped": [],
        "faces": {},
        "notes": [],
        "already_prepared": False,
        "data_dir": data,
        "path": f"{data}/fer2013/1.0.0",
    }


def test_only_the_data_set_is_left(source: str, data: str) -> None:
    prepare("fer2013", source, data_dir=data)
    assert os.listdir(data) == ["fer2013"]
    assert os.listdir(f"{data}/fer2013") == ["1.0.0"]
    splits = {name.split(".")[0] for name in os.listdir(f"{data}/fer2013/1.0.0") if "array_record" in name}
    assert splits == {"fer2013-train", "fer2013-public_test", "fer2013-private_test"}


def test_description_for_people(tmp_path: Path, data: str) -> None:
    rows = [row(n, 3, "Training") for n in range(1200)] + [row(0, 9, "Training")] * 7
    text = describe(prepare("fer2013", str(write(tmp_path / "fer", {"fer2013.csv": table(rows)})), data_dir=data))
    assert "fer2013 prepared (layout: fer2013.csv)" in text
    assert "1,200" in text
    assert "skipped: 7\n  row 1200: emotion '9', expected a code from 0 to 6 or a name\n" in text
    assert "  and 2 more\n" in text
    assert "note: train: 1,200 pictures, the complete set has 28,709; different: anger 0 of 3,995, " in text
    assert text.endswith(f"data: {data}/fer2013/1.0.0")


def test_second_time_says_so_and_writes_nothing(source: str, data: str) -> None:
    first = prepare("fer2013", source, data_dir=data)
    before = {path: path.stat().st_mtime_ns for path in Path(data).rglob("*")}
    second = prepare("fer2013", source, data_dir=data)
    assert second == first | {"already_prepared": True}
    assert "already prepared" in describe(second)
    assert {path: path.stat().st_mtime_ns for path in Path(data).rglob("*")} == before


def test_another_source_needs_overwrite(source: str, data: str, tmp_path: Path) -> None:
    prepare("fer2013", source, data_dir=data)
    other = str(write(tmp_path / "other", {"fer2013.csv": table([row(50, 0, "Training")])}))
    with pytest.raises(DataError, match=rf"prepared from {source}, which differs from {other}; add --overwrite"):
        prepare("fer2013", other, data_dir=data)
    assert prepare("fer2013", source, data_dir=data)["splits"]["train"]["examples"] == 7
    report = prepare("fer2013", other, data_dir=data, overwrite=True)
    assert report["splits"] == {"train": {"examples": 1, "classes": dict.fromkeys(SEVEN, 0) | {"anger": 1}}}
    assert [example["pixels"].tolist() for example in examples(tmp_path, "train")] == [face(50).tolist()]
    assert os.listdir(data) == ["fer2013"]


def test_failed_overwrite_keeps_what_was_there(source: str, data: str, tmp_path: Path) -> None:
    first = prepare("fer2013", source, data_dir=data)
    before = tree(Path(data))
    broken = write(tmp_path / "other", folders() | {"train/happy/Training_9.png": b"broken"})
    with pytest.raises(DataError, match=r"Training_9\.png: no JPEG, PNG"):
        prepare("fer2013", str(broken), data_dir=data, strict=True, overwrite=True)
    assert tree(Path(data)) == before
    assert prepare("fer2013", source, data_dir=data) == first | {"already_prepared": True}


def test_failed_move_brings_the_old_back(source: str, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare("fer2013", source, data_dir=data)
    before = tree(Path(data))
    rename = Path.rename
    moves: list[str] = []

    def fail_on_second(self: Path, target: Path) -> Path:
        if str(target).startswith(f"{data}/") and Path(target).name in ("1.0.0", "replaced"):
            moves.append(Path(target).name)
            if moves == ["replaced", "1.0.0"]:
                raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_second)
    with pytest.raises(DataError, match="No space left on device"):
        prepare("fer2013", source, data_dir=data, overwrite=True)
    assert moves == ["replaced", "1.0.0", "1.0.0"]
    assert [path for path in tree(Path(data)) if not path.startswith("incomplete.")] == before


def test_strict_is_asked_of_what_is_there_too(tmp_path: Path, data: str) -> None:
    source = str(write(tmp_path / "fer", {"fer2013.csv": table([row(0, 0, "Training"), row(1, 9, "Training")])}))
    prepare("fer2013", source, data_dir=data)
    with pytest.raises(DataError, match=r"row 1: emotion '9'.*prepared without it \(1 skipped\)"):
        prepare("fer2013", source, data_dir=data, strict=True)


FAILURES = [
    OSError(28, "No space left on device"),
    PermissionError(13, "Permission denied"),
    RuntimeError("Failed to finalize writing of split: write() failed: No space left on device; writing x"),
    KeyboardInterrupt(),
]


def prepare_failing(error: BaseException, source: str, data: str) -> str:
    with pytest.raises(DataError if isinstance(error, Exception) else KeyboardInterrupt) as caught:
        prepare("fer2013", source, data_dir=data)
    message = str(caught.value)
    assert ("cannot write the data set to" if isinstance(error, Exception) else "interrupted") in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("error", FAILURES)
def test_failure_before_a_part_is_whole_leaves_no_trace(
    error: BaseException, existing: bool, source: str, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    if existing:
        Path(data).mkdir()
    monkeypatch.setattr("data_pipelines.staging.array_record_module.ArrayRecordWriter", fail)
    assert "nothing was kept" in prepare_failing(error, source, data)
    assert Path(data).exists() == existing
    assert not existing or os.listdir(data) == []


@pytest.mark.parametrize("error", FAILURES)
def test_after_a_failure_the_same_command_goes_on(
    error: BaseException, source: str, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr("tensorflow_datasets.core.writer.ShardWriter.write", fail)
        assert "21 finished pictures kept in " in prepare_failing(error, source, data)
    assert os.listdir(data) == ["incomplete.fer2013"]
    with pytest.raises(DataError, match="is not prepared"):
        read_info("fer2013", data)
    monkeypatch.setattr("data_pipelines.pictures.store", fail)  # no picture is looked at again
    assert prepare("fer2013", source, data_dir=data)["splits"]["train"]["examples"] == 7
    assert os.listdir(data) == ["fer2013"]


def test_data_dir_below_a_file(source: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"--data_dir .*file/data: .*file is no folder; choose another place"):
        prepare("fer2013", source, data_dir=str(tmp_path / "file" / "data"))


def test_missing_source(data: str) -> None:
    with pytest.raises(DataError, match=r"--from PATH.*Kaggle.*FER-2013.*ICML 2013") as error:
        prepare("fer2013", None, data_dir=data)
    assert "\n" not in str(error.value)


def test_source_that_does_not_exist(tmp_path: Path, data: str) -> None:
    with pytest.raises(DataError, match="there is no such file or folder"):
        prepare("fer2013", str(tmp_path / "nowhere"), data_dir=data)
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("fer2103", r"did you mean fer2013\?"),
        ("FER2013", r"did you mean fer2013\?"),
        ("synthetic", r"did you mean synthetic_faces\?"),
        ("imagenet", "known: fer2013"),
        ("synthetic_faces/huge", "known: synthetic_faces/48px, synthetic_faces/tiny"),
        ("fer2013/tiny", "known: fer2013"),
    ],
)
def test_unknown_name(name: str, hint: str, data: str) -> None:
    for call in (lambda: prepare(name, "x", data_dir=data), lambda: read_info(name, data)):
        with pytest.raises(DataError, match=hint):
            call()


@pytest.mark.parametrize("name", BUILDERS)
def test_registry_leads_to_the_builder(name: str) -> None:
    assert builder_class(name).name == name


@pytest.mark.parametrize(
    ("name", "command"), [("fer2013", "fer2013 --from PATH"), ("synthetic_faces", "synthetic_faces")]
)
def test_read_info_of_what_is_not_prepared(name: str, command: str, data: str) -> None:
    with pytest.raises(
        DataError, match=rf"{name} is not prepared in {data}/.*run: expressnet data prepare {command} --data_dir {data}"
    ):
        read_info(name, data)


@pytest.mark.parametrize("damage", ["features.json", "metadata.json", "dataset_info.json"])
def test_read_info_of_a_damaged_data_set(damage: str, source: str, data: str) -> None:
    path = Path(prepare("fer2013", source, data_dir=data)["path"])
    (path / damage).write_text("{}" if damage == "metadata.json" else "{")
    with pytest.raises(DataError, match="--overwrite") as error:
        read_info("fer2013", data)
    assert "\n" not in str(error.value)


def test_default_data_dir_is_that_of_tfds(source: str, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", data)
    assert prepare("fer2013", source)["data_dir"] == data
    assert read_info("fer2013").info.splits["train"].num_examples == 7


def test_synthetic_faces(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = prepare("synthetic_faces/tiny", None, data_dir=data)
    assert {split: numbers["examples"] for split, numbers in report["splits"].items()} == {
        "train": 160,
        "validation": 64,
        "test": 64,
    }
    assert report["splits"]["test"]["classes"] == dict.fromkeys(EMOTIONS, 8)
    builder = read_info("synthetic_faces/tiny", data)
    example = builder.as_data_source("validation", decoders={"image": tfds.decode.SkipDecoding()})[3]
    factors = sample_factors(synthetic_faces.SEED, 8163)  # tiny begins at 8,000 of the stream
    assert example["image"] == encode(draw(factors, 48))
    assert builder.info.features["label"].names[example["label"]] == factors.label
    assert example["factors"]["yaw"] == np.float32(factors.yaw)
    assert example["factors"]["hair_style"].decode() == factors.hair_style
    assert example["factors"]["noise_seed"] == factors.noise_seed
    assert prepare("synthetic_faces/tiny", None, data_dir=data)["already_prepared"]


def test_processes_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = list(synthetic_faces._draw_all(range(5, 25), 32))
    monkeypatch.setattr(synthetic_faces, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(synthetic_faces, "_CHUNK", 3)
    assert list(synthetic_faces._draw_all(range(5, 25), 32)) == alone


def test_synthetic_faces_take_no_source(source: str, data: str) -> None:
    with pytest.raises(DataError, match="is made here and reads no files"):
        prepare("synthetic_faces", source, data_dir=data)


def test_module_imports_no_tfds_until_needed() -> None:
    assert not hasattr(prepare_module, "tfds")
