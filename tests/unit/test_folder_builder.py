"""Anybody's own pictures, by folders or by a table: the right class for each, and a clear line for what is wrong."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_pipelines.common.errors import DataError
from data_pipelines.prepare import prepare, read_info
from tests.disk import pack, write

# Every picture is of one colour, by which it is known again however it was stored.
COLOURS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0], [250, 0, 250], [0, 250, 250], [0, 0, 0]])

Stored = dict[str, tuple[str, int]]  # name: (label, number of its colour)


def picture(number: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), COLOURS[number], np.uint8)).save(stream, kind)
    return stream.getvalue()


def build(source: Path, tmp_path: Path, strict: bool = False) -> dict[str, Any]:
    return prepare("folder", str(source), data_dir=str(tmp_path / "data"), strict=strict)


def stored(tmp_path: Path) -> dict[str, Stored]:
    """What the prepared data set holds, read back."""
    builder = read_info("folder", str(tmp_path / "data"))
    names = builder.info.features["label"].names
    found: dict[str, Stored] = {}
    for split in builder.info.splits:
        found[split] = {}
        for example in builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}):
            pixels = np.asarray(Image.open(io.BytesIO(example["image"])), float)
            distance = np.abs(pixels.mean((0, 1)) - COLOURS).sum(1)
            assert distance.min() < 30
            found[split][example["name"].decode()] = (names[example["label"]], int(distance.argmin()))
    return found


WITH_SPLITS = {
    "Train/Happy/a.jpg": picture(0, "JPEG"),
    "Train/Happy/b.JPG": picture(1, "WEBP"),  # a WebP by its content
    "Train/SADNESS/deep/er/c.BMP": picture(2, "BMP"),
    "VALID/surprised/d.tiff": picture(3, "TIFF"),
    "VALID/contempt/e.webp": picture(4, "WEBP"),
    "Testing/angry/f.png": picture(5),
    "Testing/Neutral /g.jpeg": picture(6, "JPEG"),
}
WITHOUT = {
    "joy/x.png": picture(0),
    "Fear/x.png": picture(1),
    "Disgusted/x.tif": picture(2, "TIFF"),
}
TABLE_FILES = {f"pics/{number}.png": picture(number) for number in range(6)}
TABLE = [
    ("path", "label", "split"),
    ("pics/5.png", "happy", "train"),
    ("./pics//4.png", "Sad", "Training"),
    ("pics\\3.png", "ANGER", "val"),
    ("pics/2.png", "fearful", "Test"),
    ("own/pics/1.png", " neutral ", "TESTING"),  # from above the folder "own"
]
IN_TABLE = {
    "train": {"pics/5.png": ("happiness", 5), "pics/4.png": ("sadness", 4)},
    "validation": {"pics/3.png": ("anger", 3)},
    "test": {"pics/2.png": ("fear", 2), "pics/1.png": ("neutral", 1)},
}


def text(rows: list[tuple[str, ...]], separator: str = ",", end: str = "\n") -> str:
    return end.join(separator.join(row) for row in rows) + end


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.xz"])
def test_split_folders(kind: str, tmp_path: Path) -> None:
    report = build(pack(write(tmp_path / "own", WITH_SPLITS), kind), tmp_path)
    assert stored(tmp_path) == {
        "train": {
            "Train/Happy/a.jpg": ("happiness", 0),
            "Train/Happy/b.JPG": ("happiness", 1),
            "Train/SADNESS/deep/er/c.BMP": ("sadness", 2),
        },
        "validation": {"VALID/surprised/d.tiff": ("surprise", 3), "VALID/contempt/e.webp": ("contempt", 4)},
        "test": {"Testing/angry/f.png": ("anger", 5), "Testing/Neutral /g.jpeg": ("neutral", 6)},
    }
    assert report["layout"] == "folders <split>/<class>"
    assert report["protocol"] == "Your own data: compare only with results on the same files."
    assert (report["skipped"], report["notes"]) == ([], [])
    assert report["splits"]["test"]["classes"] == {
        "anger": 1, "contempt": 0, "disgust": 0, "fear": 0, "happiness": 0, "neutral": 1, "sadness": 0, "surprise": 0,
    }  # fmt: skip


@pytest.mark.parametrize("depth", ["", "faces", "a/b"])
def test_class_folders(depth: str, tmp_path: Path) -> None:
    write(tmp_path / "own" / depth, WITHOUT)
    report = build(tmp_path / "own", tmp_path)
    labels = {"joy/x.png": ("happiness", 0), "Fear/x.png": ("fear", 1), "Disgusted/x.tif": ("disgust", 2)}
    assert stored(tmp_path) == {"train": labels}
    assert report["layout"] == "folders <class>"
    assert "no test split, so no result" in report["protocol"]
    assert report["notes"] == [
        "there is no test split; to have one, move about a tenth of each class to test/<class>/, and prepare again",
        "there is no validation split; training holds out a part of train",
    ]


def test_the_advice_on_a_test_split_works(tmp_path: Path) -> None:
    report = build(write(tmp_path / "own", {**WITHOUT, "test/fear/y.png": picture(3)}), tmp_path)
    assert report["layout"] == "folders <split>/<class> and <class>"
    assert stored(tmp_path)["test"] == {"test/fear/y.png": ("fear", 3)}
    assert list(stored(tmp_path)["train"]) == sorted(WITHOUT)
    assert report["notes"] == ["there is no validation split; training holds out a part of train"]


def test_class_folders_beside_a_training_split_are_not_used(tmp_path: Path) -> None:
    files = {"train/sad/a.png": picture(0), "test/sad/b.png": picture(1), "sad/c.png": picture(2)}
    report = build(write(tmp_path / "own", files), tmp_path)
    assert stored(tmp_path) == {
        "train": {"train/sad/a.png": ("sadness", 0)},
        "test": {"test/sad/b.png": ("sadness", 1)},
    }
    assert "outside the class folders), for example sad/c.png" in report["notes"][0]


def test_one_class_and_one_split(tmp_path: Path) -> None:
    build(write(tmp_path / "class", {"happy/a.png": picture(1)}), tmp_path)
    assert stored(tmp_path) == {"train": {"happy/a.png": ("happiness", 1)}}
    prepare("folder", str(write(tmp_path / "x", WITH_SPLITS) / "Train"), data_dir=str(tmp_path / "two"))
    prepare("folder", str(write(tmp_path / "y", {"test/sad/a.png": picture(2)})), data_dir=str(tmp_path / "three"))
    assert list(read_info("folder", str(tmp_path / "two")).info.splits) == ["train"]
    assert list(read_info("folder", str(tmp_path / "three")).info.splits) == ["test"]


TABLES = {
    "csv": ("labels.csv", text(TABLE), "folder"),
    "excel": ("Labels.CSV", "\ufeff" + text(TABLE, ";", "\r\n"), "folder"),
    "tsv": ("labels.tsv", text(TABLE, "\t"), "zip"),
    "heads": ("labels.csv", text([(" Filename", "EXPRESSION ", "Usage"), *TABLE[1:]]), "tar.xz"),
    "order": ("labels.csv", text([(row[2], "", row[1], "7", row[0]) for row in TABLE]), "folder"),
    "quotes": ("labels.csv", text([tuple(f'"{cell}"' for cell in row) for row in TABLE] + [("",)]), "folder"),
}


@pytest.mark.parametrize("form", TABLES)
def test_table(form: str, tmp_path: Path) -> None:
    name, content, kind = TABLES[form]
    root = write(tmp_path / "all" / "own", {name: content, **TABLE_FILES})
    report = build(root.parent if kind == "folder" else pack(root, kind), tmp_path)
    assert stored(tmp_path) == IN_TABLE
    assert report["layout"] == f"table {name}"
    assert report["skipped"] == []
    assert report["notes"] == [f"not used: 1 picture without a usable row in {name}, for example pics/0.png"]


def test_rows_keep_their_order(tmp_path: Path) -> None:
    build(write(tmp_path / "own", {"own.csv": text(TABLE[:-1]), **TABLE_FILES}), tmp_path)
    assert list(stored(tmp_path)["train"]) == ["pics/5.png", "pics/4.png"]


def test_table_wins_over_class_folders(tmp_path: Path) -> None:
    rows = [("image", "label"), ("Train/Happy/a.jpg", "fear"), ("Testing/angry/f.png", "anger")]
    report = build(write(tmp_path / "own", {"labels.csv": text(rows), **WITH_SPLITS}), tmp_path)
    assert stored(tmp_path) == {
        "train": {"Train/Happy/a.jpg": ("fear", 0)},
        "test": {"Testing/angry/f.png": ("anger", 5)},
    }
    assert report["notes"] == [
        "1 picture with another class in labels.csv than by the folder: labels.csv counts",
        "not used: 5 pictures without a usable row in labels.csv, for example Testing/Neutral /g.jpeg",
        "labels.csv has no column split: folders train/, val/ and test/ tell the split, if any",
        "there is no validation split; training holds out a part of train",
    ]


def test_other_table_does_not_win(tmp_path: Path) -> None:
    other = {"scores.csv": "path,score\njoy/x.png,7\n", "deep/labels.csv": "path,label\njoy/x.png,sad\n"}
    report = build(write(tmp_path / "own", {**other, **WITHOUT}), tmp_path)
    assert stored(tmp_path)["train"]["joy/x.png"] == ("happiness", 0)
    assert report["notes"][0] == (
        "scores.csv is no table of pictures: no column for the label (label, emotion, class, expression)"
    )


def test_other_files_are_one_note(tmp_path: Path) -> None:
    others = ("joy/notes.txt", "joy/.hidden.png", ".cache/joy/a.png", "read.me", "train/x.png", "joy/a.json")
    report = build(write(tmp_path / "own", {**WITHOUT, **dict.fromkeys(others, "x")}), tmp_path)
    assert len(stored(tmp_path)["train"]) == 3
    assert report["skipped"] == []
    assert report["notes"][0] == (
        "not used: 6 files (hidden, no picture by name, or outside the class folders), for example .cache/joy/a.png"
    )


def test_pictures_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    gif = io.BytesIO()
    Image.new("L", (16, 16)).save(gif, "GIF")
    bad = {"joy/a.gif": gif.getvalue(), "joy/b.png": b"", "joy/c.jpg": picture(1, "JPEG")[:300]}
    root = write(tmp_path / "own", {**WITHOUT, **bad})
    report = build(root, tmp_path)
    assert [entry["path"] for entry in report["skipped"]] == ["joy/a.gif", "joy/b.png", "joy/c.jpg"]
    assert "no JPEG, PNG, WebP, BMP or TIFF" in report["skipped"][0]["why"]
    assert len(stored(tmp_path)["train"]) == 3
    with pytest.raises(DataError, match=r"joy/a\.gif: no JPEG"):
        prepare("folder", str(root), data_dir=str(tmp_path / "strict"), strict=True)


def test_a_table_without_a_label_column_beside_pictures_is_named(tmp_path: Path) -> None:
    root = write(tmp_path / "mine", {"pics/1.png": picture(1), "list.csv": "path,mood\npics/1.png,happy\n"})
    with pytest.raises(DataError, match=r"unknown class 'pics'.*list\.csv is no table.*no column for the label"):
        prepare("folder", str(root), data_dir=str(tmp_path / "data"))


def test_symlink_loop(tmp_path: Path) -> None:
    root = write(tmp_path / "own", WITHOUT)
    os.symlink(root, root / "joy" / "loop")
    os.symlink("..", root / "Fear" / "up")
    report = build(root, tmp_path)
    assert report["splits"]["train"]["examples"] == 3


BAD_ROWS = [
    (("../secret.png", "happy", "train"), "'../secret.png' leads out of a folder with '..'"),
    (("pics/../pics/0.png", "happy", "train"), "leads out of a folder"),
    (("/etc/passwd", "happy", "train"), "'/etc/passwd' is an absolute path; write paths as seen from the table"),
    (("C:\\pics\\0.png", "happy", "train"), "is an absolute path"),
    (("pics/none.png", "happy", "train"), "there is no file 'pics/none.png'"),
    (("pics", "happy", "train"), "there is no file 'pics'"),
    (("", "happy", "train"), "no path"),
    (("pics/5.png", "sad", "test"), "'pics/5.png' is listed in row 0 already"),
    (("pics/0.png", "", "train"), "'pics/0.png' has no label"),
    (("pics/0.png", "happy", " "), "'pics/0.png' has no split"),
    (("pics/0.png", "happy"), "has 2 columns, expected 3"),
    (("pics/0.png", "happy", "x" * (1 << 20)), "a line of more than 1,048,576 characters"),
]


@pytest.mark.parametrize(("bad", "why"), BAD_ROWS)
def test_bad_row_is_skipped_or_an_error(bad: tuple[str, ...], why: str, tmp_path: Path) -> None:
    write(tmp_path, {"secret.png": picture(6)})
    root = write(tmp_path / "own", {"labels.csv": text([*TABLE, bad]), **TABLE_FILES})
    with pytest.raises(DataError, match=r"^labels\.csv row 5: ") as error:
        build(root, tmp_path, strict=True)
    assert why in str(error.value)
    report = build(root, tmp_path)
    assert [entry["path"] for entry in report["skipped"]] == ["labels.csv row 5"]
    assert why in report["skipped"][0]["why"]
    assert stored(tmp_path) == IN_TABLE


def with_row(*row: str) -> dict[str, bytes | str]:
    return {"labels.csv": text([*TABLE, row]), **TABLE_FILES}


ERRORS: list[tuple[Mapping[str, bytes | str], str]] = [
    ({}, "no pictures with classes recognised; expected folders <split>/<class>/, <class>/<split>/ or <class>/, or"),
    ({"a.png": picture(0), "train/b.png": picture(1)}, "no pictures with classes recognised; expected"),
    (
        {"labels.csv": "", **TABLE_FILES},
        r"class folder 'pics': unknown class 'pics', the only one; known: anger, contempt",
    ),
    (
        {"labels.csv": "", "a.png": picture(0)},
        r"\(labels\.csv is no table .* path \(path, .* and none for the label \(",
    ),
    ({"labels.csv": "path\na.png", "a.png": picture(0)}, r"labels\.csv is no table .* no column for the label \("),
    ({"labels.csv": "label\nhappy", "a.png": picture(0)}, r"no column for the path \(path, image, file, filename, p"),
    ({"labels.csv": "path,label", **TABLE_FILES}, r"no usable picture; put it right"),
    (
        {"labels.csv": "path,label\nno.png,sad\n,\nx,sad", **TABLE_FILES},
        r"labels\.csv: nothing to use among 2 \(the first: labels\.csv row 0: there is no file 'no\.png'\)",
    ),
    (with_row("pics/0.png", "3", "train"), "row 5: the label '3' is a number, and numbers mean different classes"),
    (with_row("pics/0.png", "3.0", "train"), "the label '3.0' is a number"),
    (with_row("pics/0.png", "-3.5", "train"), "the label '-3.5' is a number"),
    (
        with_row("pics/0.png", "joyous", "train"),
        "row 5: unknown class 'joyous'; did you mean joy.*known: anger, contempt, .* surprise",
    ),
    (with_row("pics/0.png", "sad", "dev"), "row 5: unknown split 'dev'; known: train, training, val"),
    ({**WITHOUT, "suprise/a.png": picture(0)}, r"unknown class 'suprise'; did you mean surprise\? known: anger"),
    ({"0_angry/a.png": picture(0), "1_sad/a.png": picture(1)}, r"'0_angry'; did you mean angry\?"),
    ({"pics/a.png": picture(0), "x.txt": ""}, "unknown class 'pics', the only one; known: .* two or more of your own"),
    ({"a\u202eb/a.png": picture(0), "c/a.png": picture(1)}, "is no name for a class; rename it"),
    (
        {**WITH_SPLITS, "Train/0/a.png": picture(0)},
        "class folder 'Train/0': the label '0' is a number, .* write names, .* --codes NAME,NAME",
    ),
    (
        {"labels.csv": "path,label\n" + "".join(f"a.png,class {n}\n" for n in range(1001)), "a.png": picture(0)},
        r"more than 1,000 different labels in its first 1,001 rows; are these classes\?",
    ),
    (
        {"one.csv": text(TABLE), "two.tsv": text(TABLE, "\t"), **TABLE_FILES},
        r"2 tables list pictures: one.csv, two.tsv",
    ),
    ({"one.csv": "path,Label,emotion\n", **TABLE_FILES}, "two columns for the label: 'Label' and 'emotion'; keep one"),
]


@pytest.mark.parametrize(("files", "why"), ERRORS)
def test_what_cannot_be_told(files: Mapping[str, bytes | str], why: str, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    with pytest.raises(DataError, match=why) as error:
        build(write(tmp_path / "own", files), tmp_path)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["own"]


def test_table_alone_says_what_to_give(tmp_path: Path) -> None:
    root = write(tmp_path / "own", {"labels.csv": text(TABLE), **TABLE_FILES})
    with pytest.raises(DataError, match=rf"a table without its pictures; .* --from {root}$"):
        build(root / "labels.csv", tmp_path)
