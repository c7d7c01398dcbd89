"""One's own data: any classes, numbers with their names, several sets by name; and what TFDS alone reads of them."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_pipelines import splits
from data_pipelines.audit import audit
from data_pipelines.common.errors import DataError, UsageError
from data_pipelines.prepare import prepare, read_info
from tests.disk import pack, write
from tests.unit.test_folder_builder import WITH_SPLITS, WITHOUT, build, picture, stored, text


def classes(tmp_path: Path, name: str = "folder") -> list[str]:
    return read_info(name, str(tmp_path / "data")).info.features["label"].names


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_classes_of_ones_own(kind: str, tmp_path: Path) -> None:
    files = {"train/sleepy/a.png": picture(0), "train/Alert/b.png": picture(1), "test/alert/c.png": picture(2)}
    report = build(pack(write(tmp_path / "own", files), kind), tmp_path)
    assert classes(tmp_path) == ["Alert", "sleepy"]
    assert stored(tmp_path) == {
        "train": {"train/Alert/b.png": ("Alert", 1), "train/sleepy/a.png": ("sleepy", 0)},
        "test": {"test/alert/c.png": ("Alert", 2)},
    }
    assert report["splits"]["test"]["classes"] == {"Alert": 1, "sleepy": 0}
    setting = "--config.data.name=folder --config.data.classes=Alert,sleepy"
    assert report["notes"][0] == f"2 classes of your own, in alphabetical order: train with {setting}"


def test_two_hundred_classes_in_a_table_under_a_name(tmp_path: Path) -> None:
    rows = [("path", "label")] + [(f"pics/{n}.png", f"kind {n:03}") for n in range(200)]
    root = write(tmp_path / "own", {"labels.csv": text(rows)} | {f"pics/{n}.png": picture(n % 7) for n in range(200)})
    report = prepare("folder", str(root), data_dir=str(tmp_path / "data"), own_name="mine")
    assert report["name"] == "mine" and report["path"] == str(tmp_path / "data" / "mine" / "1.0.0")
    assert classes(tmp_path, "mine") == [f"kind {n:03}" for n in range(200)]
    split = splits.open_split("mine", "train", classes(tmp_path, "mine"), data_dir=str(tmp_path / "data"))
    assert split.labels().tolist() == list(range(200))


def test_emotions_among_other_classes_keep_their_names(tmp_path: Path) -> None:
    report = build(write(tmp_path / "own", {**WITHOUT, "bored/a.png": picture(3)}), tmp_path)
    assert classes(tmp_path) == ["Disgusted", "Fear", "bored", "joy"]
    assert report["notes"][0].startswith("4 classes of your own")


@pytest.mark.parametrize(
    ("codes", "labels"),
    [
        (("alert", "sleepy"), {"0": "alert", "2": "sleepy"}),  # one for each number
        (("alert", "bored", "sleepy"), {"0": "alert", "2": "sleepy"}),  # counted from 0
        (("happy", "sad"), {"0": "happiness", "2": "sadness"}),
    ],
)
def test_numbers_with_codes(codes: tuple[str, ...], labels: dict[str, str], tmp_path: Path) -> None:
    root = write(tmp_path / "own", {"train/0/a.png": picture(0), "train/2/b.png": picture(1)})
    report = prepare("folder", str(root), data_dir=str(tmp_path / "data"), codes=codes)
    assert {name.split("/")[1]: label for name, (label, _) in stored(tmp_path)["train"].items()} == labels
    assert any(note.startswith("numbers are classes as --codes has them: 0 ") for note in report["notes"])


def test_codes_that_mean_nothing(tmp_path: Path) -> None:
    root = str(write(tmp_path / "own", WITH_SPLITS))
    with pytest.raises(UsageError, match=r"--codes a,b: no class here is a number \(folders <split>/<class>\); leave"):
        prepare("folder", root, data_dir=str(tmp_path / "data"), codes=("a", "b"))
    with pytest.raises(UsageError, match="--codes goes with data sets whose classes may be numbers"):
        prepare("synthetic_faces/tiny", None, data_dir=str(tmp_path / "data"), codes=("a", "b"))
    numbers = write(tmp_path / "numbers", {"train/1/a.png": picture(0), "train/2/b.png": picture(1)})
    with pytest.raises(UsageError, match=r"--codes has 3 names for 2 numbers \(1, 2\); give one for each number"):
        prepare("folder", str(numbers), data_dir=str(tmp_path / "data"), codes=("a", "b", "c"))
    with pytest.raises(UsageError, match="--codes a,A has a name twice"):
        prepare("folder", str(numbers), data_dir=str(tmp_path / "data"), codes=("a", "A"))
    assert not (tmp_path / "data").exists()


def test_named_sets_side_by_side(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    for name, content in (("mine", WITH_SPLITS), ("theirs", {"a/1.png": picture(0), "b/2.png": picture(1)})):
        prepare("folder", str(write(tmp_path / name, content)), data_dir=data, own_name=name)
    assert sorted(os.listdir(data)) == ["mine", "theirs"]
    assert prepare("folder", str(tmp_path / "mine"), data_dir=data, own_name="mine")["already_prepared"]
    plain = tfds.builder_from_directory(f"{data}/theirs/1.0.0")
    assert plain.info.features["label"].names == ["a", "b"]
    assert [example["image"].shape for example in plain.as_data_source("train")] == [(16, 16, 3)] * 2
    assert audit.audit("theirs", data_dir=data)["all"]["classes"] == {"a": 1, "b": 1}
    again = f"expressnet data prepare folder --name theirs --from {tmp_path / 'theirs'} --data_dir {data} --overwrite"
    next(Path(data, "theirs", "1.0.0").glob("*train*")).unlink()
    with pytest.raises(DataError, match=f"run: {again}$"):
        read_info("theirs", data)
    with pytest.raises(DataError, match=r"no data set 'their' is .* which has mine, theirs; known: .* mean theirs\?"):
        read_info("their", data)
    for name in ("fer2013", "2", "a/b", ".."):
        with pytest.raises(UsageError, match=r"--name .* is none of"):
            prepare("folder", str(tmp_path / "mine"), data_dir=data, own_name=name)
    with pytest.raises(UsageError, match="--name goes with folder"):
        prepare("rafdb", str(tmp_path / "mine"), data_dir=data, own_name="mine")


@pytest.mark.parametrize("mixed", [False, True])
def test_grey_pictures_decode_without_our_decoders(mixed: bool, tmp_path: Path) -> None:
    grey = io.BytesIO()
    Image.fromarray(np.full((16, 16), 77, np.uint8)).save(grey, "PNG")
    files = {"train/sad/a.png": grey.getvalue(), "train/happy/b.png": picture(1) if mixed else grey.getvalue()}
    report = build(write(tmp_path / "own", files), tmp_path)
    found = list(tfds.builder_from_directory(report["path"]).as_data_source("train"))
    assert [example["image"].shape for example in found] == [(16, 16, 3 if mixed else 1)] * 2
    (sad,) = (example["image"] for example in found if example["name"] == b"train/sad/a.png")
    assert (sad == 77).all()


def test_old_sets_without_a_shape_are_still_read(tmp_path: Path) -> None:
    path = Path(build(write(tmp_path / "own", WITH_SPLITS), tmp_path)["path"])
    features = json.loads((path / "features.json").read_text())
    image = features["featuresDict"]["features"]["image"]["image"]
    assert image["shape"]["dimensions"] == ["16", "16", "3"]
    image["shape"]["dimensions"] = ["-1", "-1", "-1"]
    (path / "features.json").write_text(json.dumps(features))
    (path / "files.json").unlink()
    split = splits.open_split("folder", "train", classes(tmp_path), data_dir=str(tmp_path / "data"))
    assert split.load(np.arange(3))["image"].shape == (3, 16, 16, 3)
