"""FER+ joins ten people's votes with the right pictures, in both forms in which people have these."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_pipelines.builders.ferplus import majority
from data_pipelines.common.errors import DataError
from data_pipelines.prepare import prepare, read_info
from tests.disk import pack, write

HEADS = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
ROWS = [  # the number in a name lags behind the row's, as in the true file from its first row without a picture on
    "Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0",  # 4 of 9 without the single vote: no majority
    "Training,fer0000001.png,6,0,1,1,0,0,0,0,2,0",
    "Training,,0,0,0,0,0,0,0,0,0,10",  # no picture
    "Training,fer0000002.png,0,10,0,0,0,0,0,0,0,0",
    "Training,fer0000003.png,4,0,0,4,1,0,0,0,1,0",  # a tie
    "Training,fer0000004.png,1,0,0,0,0,0,0,0,9,0",  # unknown
    "Training,fer0000005.png,0,0,0,0,0,0,0,0,2,8",  # not a face
    "Training,fer0000006.png,0,0,0,0,0,0,1,6,3,0",
    "PublicTest,fer0028638.png,0,0,6,0,0,0,4,0,0,0",
    "PublicTest,fer0028639.png,0,0,0,0,8,1,1,0,0,0",
    "PrivateTest,fer0032220.png,0,0,0,0,0,7,0,0,3,0",
    "PrivateTest,fer0032221.png,2,0,0,0,0,0,7,1,0,0",
    "PrivateTest,fer0032222.png,0,0,0,5,0,1,0,0,4,0",  # 5 of 9 without the single vote
    "PrivateTest,fer0032223.png,4,0,0,0,2,2,1,1,0,0",  # the most votes, but only 4 of 8
]
SPLITS = {"train": (1, 3, 7), "public_test": (8, 9), "private_test": (10, 11, 12)}
EXPECTED = {  # row: label, votes for anger, contempt, disgust, fear, happiness, neutral, sadness, surprise
    1: ("neutral", [0, 0, 0, 0, 0, 6, 1, 1]),
    3: ("happiness", [0, 0, 0, 0, 10, 0, 0, 0]),
    7: ("contempt", [0, 6, 0, 1, 0, 0, 0, 0]),
    8: ("surprise", [0, 0, 0, 4, 0, 0, 0, 6]),
    9: ("anger", [8, 0, 1, 1, 0, 0, 0, 0]),
    10: ("disgust", [0, 0, 7, 0, 0, 0, 0, 0]),
    11: ("fear", [0, 1, 0, 7, 0, 2, 0, 0]),
    12: ("sadness", [0, 0, 1, 0, 0, 0, 5, 0]),
}
NOTES = [
    "train: 5 of 8 rows not used: 1 with a majority for not a face, 1 with a majority for unknown, "
    "2 without a majority, 1 without a picture (no face)",
    "private_test: 1 of 4 rows not used: 1 without a majority",
]
FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}


def face(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 48), dtype=np.uint8)


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(face(seed)).save(stream, "PNG")
    return stream.getvalue()


def votes(rows: list[str] = ROWS) -> str:
    return "\n".join([HEADS, *rows, ""])


def pixels(rows: list[str] = ROWS) -> str:
    """fer2013.csv with the same rows; all its own labels say anger."""
    lines = [f"0,{' '.join(map(str, face(n).ravel()))},{row.split(',')[0]}" for n, row in enumerate(rows)]
    return "\n".join(["emotion,pixels,Usage", *lines, ""])


def icml() -> str:
    lines = [line.split(",") for line in pixels().splitlines()[1:]]
    return "\r\n".join(["emotion, Usage, pixels", *(f"{code}, {usage}, {text}" for code, text, usage in lines)])


def folders(rows: list[str] = ROWS) -> dict[str, bytes]:
    """The PNG copies: of every row with a name."""
    cells = [row.split(",") for row in rows]
    return {f"{FOLDERS[usage]}/{name}": png(n) for n, (usage, name, *_) in enumerate(cells) if name}


def build(source: Path, tmp_path: Path, strict: bool = False) -> dict[str, Any]:
    return prepare("ferplus", str(source), data_dir=str(tmp_path / "data"), strict=strict)


def examples(tmp_path: Path, split: str) -> list[dict[str, Any]]:
    builder = read_info("ferplus", str(tmp_path / "data"))
    names = builder.info.features["label"].names
    stored = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    return [
        {
            "pixels": np.asarray(Image.open(io.BytesIO(example["image"]))),
            "label": names[example["label"]],
            "name": example["name"].decode(),
            "votes": example["votes"],
        }
        for example in (stored[i] for i in range(len(stored)))
    ]


def assert_joined(tmp_path: Path, splits: Mapping[str, tuple[int, ...]] = SPLITS) -> None:
    """Every split holds exactly the pictures of these rows, in their order, with their labels and votes."""
    for split, rows in splits.items():
        stored = examples(tmp_path, split)
        assert len(stored) == len(rows)
        for example, row in zip(stored, rows, strict=True):
            label, counts = EXPECTED[row]
            np.testing.assert_array_equal(example["pixels"], face(row))
            assert example["label"] == label
            assert example["votes"].dtype == np.float32
            np.testing.assert_array_equal(example["votes"], counts)


LAYOUTS: dict[str, tuple[Mapping[str, bytes | str], str, str]] = {
    "csv": ({"fer2013.csv": pixels()}, "folder", "fer2013new.csv with fer2013.csv"),
    "icml": ({"deep/icml_face_data.csv": icml()}, "zip", "fer2013new.csv with icml_face_data.csv"),
    "png": (folders(), "folder", "fer2013new.csv with folders"),
    "nested": ({f"data/{name}": data for name, data in folders().items()}, "tar.gz", "fer2013new.csv with folders"),
    "case": ({name.upper(): data for name, data in folders().items()}, "folder", "fer2013new.csv with folders"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout: str, tmp_path: Path) -> None:
    files, kind, name = LAYOUTS[layout]
    report = build(pack(write(tmp_path / "fer", {"fer2013new.csv": votes(), **files}), kind), tmp_path)
    assert report["layout"] == name
    assert "private_test may be compared with published FER+ results" in report["protocol"]
    assert "not with FER-2013 results" in report["protocol"]
    assert list(report["splits"]) == list(SPLITS)
    assert report["splits"]["train"]["classes"] == {
        "anger": 0, "contempt": 1, "disgust": 0, "fear": 0, "happiness": 1, "neutral": 1, "sadness": 0, "surprise": 0,
    }  # fmt: skip
    assert report["skipped"] == []
    assert report["notes"] == NOTES
    assert_joined(tmp_path)


def test_names_are_rows_or_files(tmp_path: Path) -> None:
    root = write(tmp_path / "fer", {"fer2013new.csv": votes(), "fer2013.csv": pixels()})
    build(root, tmp_path)
    assert [example["name"] for example in examples(tmp_path, "train")] == ["row 1", "row 3", "row 7"]
    write(tmp_path / "png", {"fer2013new.csv": votes(), **folders()})
    prepare("ferplus", str(tmp_path / "png"), data_dir=str(tmp_path / "data"), overwrite=True)
    names = [example["name"] for example in examples(tmp_path, "public_test")]
    assert names == ["FER2013Valid/fer0028638.png", "FER2013Valid/fer0028639.png"]


def test_csv_wins_over_folders(tmp_path: Path) -> None:
    wrong = {name: png(99) for name in folders()}
    report = build(write(tmp_path / "fer", {"fer2013new.csv": votes(), "fer2013.csv": pixels(), **wrong}), tmp_path)
    assert report["notes"] == ["chose fer2013.csv; also there, not used: folders of PNG files", *NOTES]
    assert_joined(tmp_path)


def test_pictures_join_by_name_and_not_by_row(tmp_path: Path) -> None:
    report = build(write(tmp_path / "fer", {"fer2013new.csv": votes(ROWS[::-1]), **folders()}), tmp_path)
    assert report["skipped"] == []
    assert_joined(tmp_path, {split: rows[::-1] for split, rows in SPLITS.items()})


def test_windows_file_with_other_columns(tmp_path: Path) -> None:
    rows = [HEADS, *ROWS]
    moved = [",".join(["x", *reversed(row.split(","))]) for row in rows]
    text = "\ufeff" + "\r\n".join([moved[0].replace(",", ", ").upper(), "", *moved[1:], ""])
    build(write(tmp_path / "fer", {"FER2013NEW.CSV": text, **folders()}), tmp_path)
    assert_joined(tmp_path)


def test_majority() -> None:
    assert majority([0, 0, 2, 0]) == 2
    assert majority([1, 1, 1, 2]) == 3  # single votes are dropped
    assert majority([3, 3, 0, 0]) is None
    assert majority([4, 2, 2, 0]) is None  # half is no majority
    assert majority([5, 2, 2, 0]) == 0
    assert majority([1, 1, 1, 1]) is None
    assert majority([0, 0, 0, 0]) is None


BAD_ROWS = [
    ("Training,fer9999999.png,x,0,0,0,0,0,0,0,0,0", "neutral has 'x' votes, expected a whole number from 0 to 10"),
    ("Training,fer9999999.png,0,-1,0,0,0,0,0,0,0,0", "happiness has '-1' votes"),
    ("Training,fer9999999.png,0,0,0,0,0,0,0,0,0,11", "nf has '11' votes"),
    ("Training,fer9999999.png,0,0,0,2.5,0,0,0,0,0,0", "sadness has '2.5' votes"),
    ("Training,fer9999999.png,,0,0,0,0,0,0,0,0,0", "neutral has '' votes"),
    ("Training,fer9999999.png,0,9", "has 4 columns, expected 12"),
    ("Testing,fer9999999.png,0,10,0,0,0,0,0,0,0,0", "unknown Usage 'Testing', expected Training"),
    ("Training,FER0000001.png,0,10,0,0,0,0,0,0,0,0", "'FER0000001.png' has its votes in row 1 already"),
    ("Training,fer9999999.png,0,10,0,0,0,0,0,0,0,0", "no 'fer9999999.png' in FER2013Train/"),
    ("Training,../FER2013Test/fer0032220.png,0,10,0,0,0,0,0,0,0,0", "no '../FER2013Test/fer0032220.png' in FER2013Tr"),
    ("Training,/etc/passwd,0,10,0,0,0,0,0,0,0,0", "no '/etc/passwd' in FER2013Train/"),
    ("PublicTest,fer0000007.png,0,10,0,0,0,0,0,0,0,0", "no 'fer0000007.png' in FER2013Valid/"),  # lies in another
    ("Training," + "x" * (1 << 20), "a line of more than 1,048,576 characters"),
]


@pytest.mark.parametrize(("bad", "why"), BAD_ROWS)
def test_bad_row_is_skipped_or_an_error(bad: str, why: str, tmp_path: Path) -> None:
    extra = {"FER2013Train/fer0000007.png": png(98), "fer2013new.csv": votes([*ROWS, bad])}
    root = write(tmp_path / "fer", {**folders(), **extra})
    with pytest.raises(DataError, match=r"fer2013new\.csv row 14: ") as error:
        build(root, tmp_path, strict=True)
    assert why in str(error.value)
    assert len(str(error.value)) < 400
    report = build(root, tmp_path)
    assert [entry["path"] for entry in report["skipped"]] == ["fer2013new.csv row 14"]
    assert why in report["skipped"][0]["why"]
    assert_joined(tmp_path)


def test_damaged_pixels_are_skipped(tmp_path: Path) -> None:
    lines = pixels().splitlines()
    lines[1 + 3] = "0,1 2 3,Training"
    lines[1 + 9] = "0,1 2 3"
    root = write(tmp_path / "fer", {"fer2013new.csv": votes(), "fer2013.csv": "\n".join(lines)})
    report = build(root, tmp_path)
    assert sorted((entry["path"], entry["why"]) for entry in report["skipped"]) == [
        ("fer2013.csv row 3", "3 pixels, expected 2,304"),
        ("fer2013.csv row 9", "has 2 columns, expected 3"),
    ]
    assert_joined(tmp_path, {"train": (1, 7), "public_test": (8,), "private_test": (10, 11, 12)})


def test_parts_that_are_not_there(tmp_path: Path) -> None:
    files = {name: data for name, data in folders().items() if "Test" not in name}
    root = write(tmp_path / "fer", {"fer2013new.csv": votes(), "FER2013Train/fer7654321.png": png(5), **files})
    report = build(root, tmp_path)
    assert list(report["splits"]) == ["train", "public_test"]
    assert "only with published validation results" in report["protocol"]
    assert report["skipped"] == []
    assert report["notes"] == [
        "not used: 1 picture without a row in fer2013new.csv, for example FER2013Train/fer7654321.png",
        NOTES[0],
        "not in this copy: private_test",
    ]


def with_usage(number: int, usage: str) -> str:
    """fer2013.csv with another Usage in one row."""
    rows = list(ROWS)
    rows[number] = f"{usage},"
    return pixels(rows)


ERRORS: list[tuple[Mapping[str, bytes | str], str]] = [
    ({"fer2013.csv": pixels()}, r"no fer2013new\.csv; expected fer2013new\.csv beside the pictures"),
    ({"fer2013new.csv": votes()}, r"no pictures beside fer2013new\.csv; expected"),
    (
        {"fer2013new.csv": votes(), "fer2013.csv": "emotion,pixels\n0,1"},
        r"no pictures .* \(fer2013\.csv: no columns emotion, pixels and Usage\)",
    ),
    ({"fer2013new.csv": "", **folders()}, r"fer2013new\.csv: no column usage, .* its header has: nothing"),
    ({"fer2013new.csv": votes().replace("contempt", "c"), **folders()}, r"no column contempt; its header has: 'Usage'"),
    ({"fer2013new.csv": HEADS, **folders()}, "no row with a majority for an emotion among 0"),
    ({"fer2013new.csv": votes(ROWS[4:7]), **folders()}, "no row with a majority for an emotion among 3"),
    (
        {"fer2013new.csv": votes(), "FER2013Train/a.png": png(1)},
        r"no usable picture \(the first: fer2013new.csv row 1: no 'fer0000001.png' in FER2013Train/",
    ),
    (
        {"fer2013new.csv": votes(), "fer2013.csv": with_usage(8, "PrivateTest")},
        r"row 8 is private_test in fer2013\.csv and public_test in fer2013new\.csv: .* joined by row",
    ),
    (
        {"fer2013new.csv": votes(), "fer2013.csv": with_usage(2, "PublicTest")},
        "row 2 is public_test",  # the row has no picture, but the tables do not belong together
    ),
    (
        {"fer2013new.csv": votes(), "fer2013.csv": pixels(ROWS[:-1])},
        r"fer2013\.csv has 13 rows and fer2013new\.csv 14: .* complete",
    ),
    ({"fer2013new.csv": votes([*ROWS, ROWS[-1]]), "fer2013.csv": pixels()}, "has 14 rows and fer2013new.csv 15"),
    (
        {"fer2013new.csv": votes(), "fer2013.csv": "\n".join(["emotion,pixels,Usage", *["0,1"] * len(ROWS)])},
        r"no usable picture \(the first: fer2013\.csv row 0: has 2 columns, expected 3\)",
    ),
]


@pytest.mark.parametrize(("files", "why"), ERRORS)
def test_what_cannot_be_joined(files: Mapping[str, bytes | str], why: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=why) as error:
        build(write(tmp_path / "fer", files), tmp_path)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["fer"]


def label_tables(rows: list[str] = ROWS) -> dict[str, str]:
    """label.csv of each folder as the authors' program writes it: no header, a box, no rows without a picture."""
    found: dict[str, list[str]] = {f"{folder}/label.csv": [] for folder in FOLDERS.values()}
    for row in rows:
        usage, name, counts = row.split(",", 2)
        if name:
            found[f"{FOLDERS[usage]}/label.csv"].append(f'{name},"(0, 0, 48, 48)",{counts}')
    return {path: "\r\n".join(lines) for path, lines in found.items()}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_authors_generated_set(kind: str, tmp_path: Path) -> None:
    report = build(pack(write(tmp_path / "fer", label_tables() | folders()), kind), tmp_path)
    assert report["layout"] == "label.csv with folders"
    assert_joined(tmp_path)
    assert report["notes"][0].startswith("train: 4 of 7 rows not used: 1 with a majority for not a face")


def test_a_picture_of_the_generated_set_that_is_not_there(tmp_path: Path) -> None:
    files = label_tables() | {name: data for name, data in folders().items() if "0000001" not in name}
    report = build(write(tmp_path / "fer", files), tmp_path)
    assert report["skipped"] == [{"path": "label.csv fer0000001.png", "why": "no 'fer0000001.png' in FER2013Train/"}]
