"""Every layout of AffectNet that people have reads to the right classes, and what is wrong in one is named."""

import io
import pickle
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.builders.affectnet import AffectNet
from data_pipelines.builders.base import Plan
from data_pipelines.common.errors import DataError
from data_pipelines.prepare import prepare
from data_pipelines.sources import open_source
from tests.disk import pack, write
from tests.unit.test_rafdb_builder import encode, stored

CODES = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")  # by hand, in order
FOLDERS = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
ONE_EACH = dict.fromkeys(sorted(CODES), 1)
HEADER = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
ENDINGS = {"jpg": "JPEG", "bmp": "BMP", "tif": "TIFF", "png": "PNG"}

Files = dict[str, bytes | str]


def build(source: Path, tmp_path: Path, strict: bool = False) -> dict[str, Any]:
    return prepare("affectnet", str(source), data_dir=str(tmp_path / "data"), strict=strict)


def make_plan(source: Path, tmp_path: Path) -> Plan:
    return AffectNet(data_dir=str(tmp_path / "data")).plan(open_source(source))


def labels(plan: Plan, split: str) -> dict[str, str]:
    pictures = list(plan.splits[split].pictures())
    assert plan.splits[split].expected == len(pictures) == len({picture.order for picture in pictures})
    return {picture.name: picture.label for picture in pictures}


def row(path: str, code: object) -> str:
    return f"{path},10,12,80,82,1.5;2.5;3.5;4.5,{code},-0.2,0.4"


def older(prefix: str = "Manually_Annotated_Images/", validation_header: bool = False) -> Files:
    """A picture of each class in training (1 to 8) and validation (9 to 16), and three that show no emotion."""
    files: Files = {}
    rows: dict[str, list[str]] = {"training": [HEADER], "validation": [HEADER] if validation_header else []}
    for n in range(1, 17):
        ending, kind = list(ENDINGS.items())[n % 4]
        path = f"{n % 3}/{n:056x}.{ending}"
        files[prefix + path] = encode(n, kind)
        rows["training" if n < 9 else "validation"].append(row(path, (n - 1) % 8))
    for code in (8, 9, 9, 10):
        rows["training"].insert(3, row(f"7/{'f' * 56}.jpg", code))
    return files | {f"{table}.csv": "\n".join(lines) for table, lines in rows.items()}


def older_names(split: str) -> dict[str, tuple[str, int]]:
    numbers = range(1, 9) if split == "train" else range(9, 17)
    return {f"{n % 3}/{n:056x}.{list(ENDINGS)[n % 4]}": (CODES[(n - 1) % 8], n) for n in numbers}


def npy(value: object) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(value))
    return stream.getvalue()


def newer(prefix: str = "") -> Files:
    """Train has its classes as strings, val as numbers of several types."""
    kinds = (np.int64, np.uint8, np.float32, lambda code: str(code).encode(), lambda code: [code])
    files: Files = {}
    for n in range(16):
        folder = f"{prefix}{'train_set' if n < 8 else 'val_set'}"
        files[f"{folder}/images/{n}.jpg"] = encode(n, "JPEG")
        value = str(n % 8) if n < 8 else kinds[n % 5](n % 8)
        for what, content in {"exp": value, "val": "-0.5", "aro": "0.5", "lnd": np.zeros((68, 2))}.items():
            files[f"{folder}/annotations/{n}_{what}.npy"] = npy(content)
    return files


def newer_names(split: str) -> dict[str, tuple[str, int]]:
    folder, numbers = ("train_set", range(8)) if split == "train" else ("val_set", range(8, 16))
    return {f"{folder}/images/{n}.jpg": (CODES[n % 8], n) for n in numbers}


def subset() -> Files:
    """The first picture lies in the folder `anger`, and shows surprise as the table says."""
    rows = [",pth,label,relFCs"]
    files: Files = {}
    for n in range(1, 9):
        path = f"{'anger' if n == 1 else FOLDERS[n - 1]}/image{n:07}.jpg"
        files[path] = encode(n, "JPEG")
        rows.append(f"{n},{path},{'surprise' if n == 1 else FOLDERS[n - 1]},0.87{n}")
    return files | {"labels.csv": "\n".join(rows)}


SUBSET = {"anger/image0000001.jpg": ("surprise", 1)} | {
    f"{FOLDERS[n - 1]}/image{n:07}.jpg": (CODES[n - 1], n) for n in range(2, 9)
}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_older_release(kind: str, tmp_path: Path) -> None:
    report = build(pack(write(tmp_path / "affect", older()), kind), tmp_path)
    assert report["layout"] == "official, older (CSV files)"
    assert "published AffectNet results" in report["protocol"]
    assert {split: part["classes"] for split, part in report["splits"].items()} == {
        "train": ONE_EACH,
        "validation": ONE_EACH,
    }
    assert report["skipped"] == []
    assert (
        "left out, as they show no emotion: 1 with 8 (none), 2 with 9 (uncertain), 1 with 10 (no face)"
        in report["notes"]
    )
    for split in ("train", "validation"):
        assert list(stored("affectnet", tmp_path, split).items()) == list(older_names(split).items())


@pytest.mark.parametrize("prefix", ["Manually_Annotated_Images/", "a/b/Manually_Annotated_Images/", "", "pictures/"])
@pytest.mark.parametrize("validation_header", [False, True])
def test_older_release_anywhere_with_and_without_header(prefix: str, validation_header: bool, tmp_path: Path) -> None:
    plan = make_plan(write(tmp_path / "affect", older(prefix, validation_header)), tmp_path)
    assert plan.aligned
    for split in ("train", "validation"):
        assert labels(plan, split) == {name: label for name, (label, _) in older_names(split).items()}


def test_header_is_read_by_name(tmp_path: Path) -> None:
    files = older()
    files["training.csv"] = "\ufeff expression, subDirectory_filePath\r\n" + "".join(
        f"{CODES.index(label)}, {name}\r\n" for name, (label, _) in older_names("train").items()
    )
    plan = make_plan(write(tmp_path / "affect", files), tmp_path)
    assert labels(plan, "train") == {name: label for name, (label, _) in older_names("train").items()}


def test_other_pictures_of_the_same_name_are_not_mixed_in(tmp_path: Path) -> None:
    elsewhere = {f"Automatically_Annotated_Images/{name}": encode(31) for name in older_names("train")}
    later = {f"previews/{name}": encode(31) for name in older_names("train")}
    report = build(write(tmp_path / "affect", older() | elsewhere | later), tmp_path)
    assert stored("affectnet", tmp_path, "train") == older_names("train")
    assert report["skipped"] == []


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_newer_release(kind: str, tmp_path: Path) -> None:
    """The tar has its members in reverse order: pictures before their classes."""
    report = build(pack(write(tmp_path / "affect", newer("deep/er/")), kind), tmp_path)
    assert report["layout"] == "official, newer (annotation files)"
    assert report["skipped"] == []
    assert {split: part["classes"] for split, part in report["splits"].items()} == {
        "train": ONE_EACH,
        "validation": ONE_EACH,
    }
    for split in ("train", "validation"):
        assert stored("affectnet", tmp_path, split) == newer_names(split)


def test_splits_can_be_streamed_again(tmp_path: Path) -> None:
    plan = make_plan(write(tmp_path / "affect", newer()), tmp_path)
    assert plan.aligned
    first = [(picture.order, picture.name, picture.label) for picture in plan.splits["train"].pictures()]
    assert first == [(picture.order, picture.name, picture.label) for picture in plan.splits["train"].pictures()]
    assert labels(plan, "validation") == {name: label for name, (label, _) in newer_names("validation").items()}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_kaggle_subset(kind: str, tmp_path: Path) -> None:
    report = build(pack(write(tmp_path / "affect", subset()), kind), tmp_path)
    assert report["layout"] == "Kaggle subset (labels.csv)"
    assert "as in the paper" in report["protocol"]
    assert "not comparable with official AffectNet results" in report["protocol"]
    assert list(report["splits"]) == ["train"]
    assert stored("affectnet", tmp_path, "train") == SUBSET
    assert len(report["notes"]) == 1
    assert report["notes"][0].startswith("1 picture with another class in ")


def test_kaggle_subset_without_a_row_for_a_picture(tmp_path: Path) -> None:
    plan = make_plan(write(tmp_path / "affect", subset() | {"fear/image0000099.jpg": encode(9)}), tmp_path)
    assert plan.aligned
    assert labels(plan, "train") == {name: label for name, (label, _) in SUBSET.items()}
    assert any(note.startswith("not used: 1 picture without a usable row in labels.csv") for note in plan.notes)


@pytest.mark.parametrize("with_table", [False, True])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_kaggle_named_folders(kind: str, with_table: bool, tmp_path: Path) -> None:
    names = ("Neutral", "happy", "SAD", "Surprise", "fear", "Disgust", "Anger", "Contempt")
    files: Files = {f"Train/{name}/{n}.png": encode(n) for n, name in enumerate(names)}
    files |= {f"Test/{name.title()}/{n}.png": encode(n + 8) for n, name in enumerate(names)}
    files |= {"labels.csv": ",pth,label,relFCs\n0,anger/image0000001.jpg,surprise,0.5"} if with_table else {}
    report = build(pack(write(tmp_path / "affect", files), kind), tmp_path)
    assert report["layout"] == "Kaggle variant, named folders"
    assert "not with official AffectNet results" in report["protocol"]
    assert list(report["splits"]) == ["train", "test"]
    assert stored("affectnet", tmp_path, "train") == {f"Train/{names[n]}/{n}.png": (CODES[n], n) for n in range(8)}
    assert [label for label, _ in stored("affectnet", tmp_path, "test").values()] == [
        CODES[names.index(name)] for name in sorted(names, key=str.title)
    ]
    assert any("names no picture that is there" in note for note in report["notes"]) == with_table


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_kaggle_numbered_folders(val: str, tmp_path: Path) -> None:
    folders = ("train", val, "test")
    files: Files = {f"archive/{folder}/{n}/x.png": encode(n) for folder in folders for n in range(8)}
    report = build(write(tmp_path / "affect", files), tmp_path)
    assert report["layout"] == "Kaggle variant, numbered folders"
    assert list(report["splits"]) == ["train", "validation", "test"]
    for folder, split in zip(folders, report["splits"], strict=True):
        assert stored("affectnet", tmp_path, split) == {f"{folder}/{n}/x.png": (CODES[n], n) for n in range(8)}
    assert report["notes"][0].startswith("numbers were taken for AffectNet's codes: 0 neutral, 1 happiness")
    assert re.search(r"look at archive/\w+/0/x\.png \(0: neutral\), archive/\w+/3/x", report["notes"][0])


@pytest.mark.parametrize("make", [older, newer])
def test_totals_of_the_official_releases_are_compared(make: Any, tmp_path: Path) -> None:
    notes = "\n".join(make_plan(write(tmp_path / "affect", make()), tmp_path).notes)
    assert "train: 8 pictures, the complete set " in notes
    assert "287,651" in notes
    assert "validation: 8 pictures, the complete set " in notes
    assert "4,000" in notes


@pytest.mark.parametrize(("classes", "missing"), [(7, 0), (8, 0), (8, 1)])
def test_complete_validation_set_has_no_note(classes: int, missing: int, tmp_path: Path) -> None:
    each = Counter({code: 500 - missing * (code == 4) for code in range(classes)})
    paths = [(f"{code}/{n}.jpg", code) for code, number in each.items() for n in range(number)]
    files: Files = {f"Manually_Annotated_Images/{path}": b"" for path, _ in paths}
    files["validation.csv"] = "\n".join(row(path, code) for path, code in paths)
    notes = make_plan(write(tmp_path / "affect", files), tmp_path).notes
    short = "validation: 3,999 pictures, the complete set with 8 classes has 4,000; different: fear 499 of 500"
    assert notes == [short] * missing + ["not in this copy: train"]


OUTSIDE = ["../../../outside.jpg", "/outside.jpg", "{outside}", "1/../../../outside.jpg", "..\\..\\outside.jpg"]
BAD_ROWS = [
    *((row(path, 1), "is not there") for path in OUTSIDE),
    (row("1/missing.jpg", 1), "its picture '1/missing.jpg' is not there"),
    (row(next(iter(older_names("train"))), 1), "is listed in row 0 already"),
    (row("1/x.jpg", 11), "expression '11', expected a code from 0 to 10"),
    (row("1/x.jpg", -1), "expression '-1', expected a code from 0 to 10"),
    (row("1/x.jpg", "happy"), "expression 'happy', expected a code from 0 to 10"),
    (row("1/x.jpg", ""), "expression '', expected a code from 0 to 10"),
    ("1/x.jpg,1,2,3", "has 4 columns, expected 7"),
    (row("x" * 200_000, 1), "no valid CSV"),
    (row("x," * 3_000_000, 1), "a line of more than 1,048,576 characters"),
]


@pytest.mark.parametrize(("bad", "why"), BAD_ROWS)
def test_bad_row_is_skipped_or_an_error(bad: str, why: str, tmp_path: Path) -> None:
    outside = write(tmp_path, {"outside.jpg": encode(9)}) / "outside.jpg"
    files = older()
    rows = str(files["training.csv"]).splitlines()
    files["training.csv"] = "\n".join([*rows[:2], bad.replace("{outside}", str(outside)), *rows[2:]])
    source = write(tmp_path / "affect", files)
    with pytest.raises(DataError, match=r"training\.csv row 1: ") as error:
        build(source, tmp_path, strict=True)
    assert why in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    report = build(source, tmp_path)
    assert [entry["path"] for entry in report["skipped"]] == ["training.csv row 1"]
    assert stored("affectnet", tmp_path, "train") == older_names("train")


class Trap:
    """Opens a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def bad_annotation(what: str, trap: Path) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<i8", "fortran_order": False, "shape": (10**12,)})
    archive = io.BytesIO()
    np.savez(archive, 3)
    made = {
        "object array": npy(np.array(Trap(trap), dtype=object)),
        "pickle": pickle.dumps(Trap(trap)),
        "two numbers": npy([1, 2]),
        "empty": b"",
        "cut short": npy(3)[:-2],
        "npz": archive.getvalue(),
        "of a terabyte": stream.getvalue(),
        "long": npy(np.zeros(1000)),
        "code 11": npy("11"),
        "code 8": npy(8),
        "a word": npy("happy"),
        "a fraction": npy(1.5),
    }
    return made[what]


@pytest.mark.parametrize(
    ("what", "why"),
    [
        *((what, "no .npy file of one plain number") for what in ("object array", "pickle", "two numbers", "empty")),
        *((what, "no .npy file of one plain number") for what in ("cut short", "npz", "of a terabyte")),
        ("long", "more than 4,096 bytes"),
        ("code 11", "expression '11', expected a code from 0 to 10"),
        ("code 8", "expression 8 (none) is no emotion"),
        ("a word", "expression 'happy'"),
        ("a fraction", "expression '1.5'"),
    ],
)
def test_bad_annotation_is_skipped_or_an_error(what: str, why: str, tmp_path: Path) -> None:
    trap = tmp_path / "unpickled"
    files = newer() | {"train_set/annotations/3_exp.npy": bad_annotation(what, trap)}
    source = write(tmp_path / "affect", files)
    with pytest.raises(DataError, match=r"train_set/annotations/3_exp\.npy: "):
        build(source, tmp_path, strict=True)
    report = build(source, tmp_path)
    assert [entry["path"] for entry in report["skipped"]] == ["train_set/annotations/3_exp.npy"]
    assert why in report["skipped"][0]["why"]
    assert stored("affectnet", tmp_path, "train") == {
        name: found for name, found in newer_names("train").items() if found[1] != 3
    }
    assert not trap.exists()


@pytest.mark.parametrize(
    ("lost", "why"), [("annotations/3_exp.npy", "its annotation"), ("images/3.jpg", "its picture")]
)
def test_picture_and_annotation_need_each_other(lost: str, why: str, tmp_path: Path) -> None:
    files = newer()
    del files[f"train_set/{lost}"]
    report = build(write(tmp_path / "affect", files), tmp_path)
    assert len(report["skipped"]) == 1
    assert report["skipped"][0]["why"].startswith(why)
    assert report["splits"]["train"]["examples"] == 7


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("9,../outside.jpg,fear,0.5", "its picture '../outside.jpg' is not there"),
        ("9,{outside},fear,0.5", "is not there"),
        ("9,labels.csv,fear,0.5", "its picture 'labels.csv' is not there"),
        ("9,happy/image0000002.jpg,joyous,0.5", "unknown class 'joyous'"),
        ("9,happy/image0000002.jpg,3,0.5", "unknown class '3'"),
        ("9,happy/image0000002.jpg", "has 2 columns, expected 3"),
    ],
)
def test_bad_row_of_the_subset_is_skipped(bad: str, why: str, tmp_path: Path) -> None:
    outside = write(tmp_path, {"outside.jpg": encode(9)}) / "outside.jpg"
    files = subset()
    files["labels.csv"] = f"{files['labels.csv']}\n{bad.replace('{outside}', str(outside))}\n"
    report = build(write(tmp_path / "affect", files), tmp_path)
    assert [entry["path"] for entry in report["skipped"]] == ["labels.csv row 8"]
    assert why in report["skipped"][0]["why"]
    assert stored("affectnet", tmp_path, "train") == SUBSET


NO_ANNOTATIONS = {name: data for name, data in newer().items() if "exp" not in name}
NOTHING: list[tuple[dict[str, Any], str]] = [
    ({}, "no AffectNet recognised; expected training.csv and validation.csv"),
    ({"readme.txt": "x"}, "no AffectNet recognised"),
    (
        older() | {"training.csv": "path,expression\n1/x.jpg,1"},
        "training.csv: no column subdirectory_filepath; its header",
    ),
    (older() | {"validation.csv": ""}, "validation.csv: no column .*; its header has: nothing"),
    (older() | {"validation.csv": HEADER.replace("expression", "class")}, "validation.csv: no column expression"),
    ({"training.csv": HEADER, "validation.csv": row("1/x.jpg", 1)}, "no usable picture .*'1/x.jpg' is not there"),
    (NO_ANNOTATIONS, r"no usable picture .*train_set: nothing to use among 8 .*its annotation"),
    ({"labels.csv": ",path,label\n0,a/x.jpg,fear"}, "labels.csv: no column pth; its header has: '', 'path', 'label'"),
    ({"labels.csv": ",pth,label\n0,a/x.jpg,fear"}, "no usable picture .*its picture 'a/x.jpg' is not there"),
    (
        {"train/9/x.jpg": b"", "train/1/x.jpg": b""},
        "unknown class folder 'train/9'; known: anger, contempt, .*0 neutral",
    ),
    ({"Train/None/x.jpg": b""}, "unknown class folder 'Train/None'"),
]


@pytest.mark.parametrize(("files", "why"), NOTHING)
def test_nothing_to_use(files: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=why) as error:
        build(write(tmp_path / "affect", files), tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data" / "affectnet").exists()
