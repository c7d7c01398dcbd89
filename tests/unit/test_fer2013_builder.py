"""Every layout of FER-2013 that people have becomes the same data set, and what is wrong in one is named."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_pipelines import pictures, splits
from data_pipelines.builders.fer2013 import Fer2013
from data_pipelines.common.errors import DataError
from data_pipelines.labels import SEVEN
from data_pipelines.prepare import prepare, read_info
from data_pipelines.sources import MAX_MEMBER_BYTES
from tests.disk import pack, write

FOLDERS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")  # the order of SEVEN
CODES = (0, 1, 2, 3, 6, 4, 5)  # the same classes in the CSV
USAGES = ("Training", "PublicTest", "PrivateTest")


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures drawn here are the complete data set."""
    one, two = dict.fromkeys(SEVEN, 1), dict.fromkeys(SEVEN, 2)
    counts = {"train": one, "public_test": one, "private_test": one, "test": two}
    monkeypatch.setattr(Fer2013, "KNOWN_COUNTS", counts)


def face(seed: int, shape: tuple[int, ...] = (48, 48)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def row(seed: int, code: object, usage: str | None, pixels: str | None = None) -> str:
    text = " ".join(map(str, face(seed).ravel())) if pixels is None else pixels
    return f"{code},{text}" + (f",{usage}" if usage is not None else "")


def table(rows: list[str] | None = None) -> str:
    """fer2013.csv with a picture of every class in every split, all three splits interleaved."""
    if rows is None:
        rows = [row(n, CODES[n % 7], USAGES[n % 3]) for n in range(21)]
    return "\n".join(["emotion,pixels,Usage", *rows, ""])


def icml_table() -> str:
    rows = [row(n, CODES[n % 7], USAGES[n % 3]).split(",") for n in range(21)]
    return "\r\n".join(["emotion, Usage, pixels", *(f"{code}, {usage}, {pixels}" for code, pixels, usage in rows)])


def folders(prefixed: bool = True) -> dict[str, bytes]:
    files = {}
    for n in range(21):
        usage, folder = USAGES[n % 3], FOLDERS[n % 7]
        stem = f"{usage}_{n}" if prefixed else f"im{n}"
        files[f"{'train' if usage == 'Training' else 'test'}/{folder}/{stem}.png"] = encode(face(n))
    return files


def build(source: Path, tmp_path: Path, strict: bool = False) -> dict[str, Any]:
    return prepare("fer2013", str(source), data_dir=str(tmp_path / "data"), strict=strict)


def examples(tmp_path: Path, split: str) -> list[dict[str, Any]]:
    builder = read_info("fer2013", str(tmp_path / "data"))
    names = builder.info.features["label"].names
    stored = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    return [
        {
            "pixels": np.asarray(Image.open(io.BytesIO(example["image"]))),
            "bytes": example["image"],
            "label": names[example["label"]],
            "name": example["name"].decode(),
        }
        for example in (stored[i] for i in range(len(stored)))
    ]


def assert_every_face(tmp_path: Path, split: str, numbers: list[int]) -> None:
    """The split holds exactly the faces `numbers` with their labels, pixel for pixel."""
    stored = examples(tmp_path, split)
    found = {example["pixels"].tobytes(): example["label"] for example in stored}
    assert len(stored) == len(numbers)
    assert found == {face(n).tobytes(): SEVEN[n % 7] for n in numbers}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.xz", "tar.gz"])
@pytest.mark.parametrize("layout", ["fer2013.csv", "icml_face_data.csv", "folders"])
def test_three_splits(layout: str, kind: str, tmp_path: Path, complete: None) -> None:
    files: dict[str, Mapping[str, bytes | str]] = {
        "fer2013.csv": {"fer2013.csv": table()},
        "icml_face_data.csv": {"icml_face_data.csv": icml_table()},
        "folders": folders(),
    }
    root = write(tmp_path / "fer", files[layout])
    report = build(pack(root, kind), tmp_path)
    assert report["layout"] == layout
    assert "private_test may be compared" in report["protocol"]
    assert {split: numbers["examples"] for split, numbers in report["splits"].items()} == {
        "train": 7,
        "public_test": 7,
        "private_test": 7,
    }
    assert all(numbers["classes"] == dict.fromkeys(SEVEN, 1) for numbers in report["splits"].values())
    assert report["skipped"] == []
    for place, split in enumerate(report["splits"]):
        assert_every_face(tmp_path, split, list(range(place, 21, 3)))


@pytest.mark.parametrize("depth", ["", "fer2013", "a/b/c"])
def test_any_depth(depth: str, tmp_path: Path) -> None:
    build(write(tmp_path / "fer" / depth, folders()).parents[depth.count("/") + 1 if depth else 0], tmp_path)
    assert_every_face(tmp_path, "train", list(range(0, 21, 3)))
    assert examples(tmp_path, "train")[0]["name"] == "train/angry/Training_0.png"


def test_folder_and_archive_give_the_same_order(tmp_path: Path) -> None:
    root = write(tmp_path / "fer", folders())
    names = []
    for kind in ("folder", "zip", "tar.xz"):
        prepare("fer2013", str(pack(root, kind)), data_dir=str(tmp_path / "data"), overwrite=True)
        names.append([example["name"] for example in examples(tmp_path, "train+public_test")])
    assert names[0] == names[1] == names[2]
    assert names[0] == [*sorted(names[0][:7]), *sorted(names[0][7:])]


def test_rows_keep_their_order_and_number(tmp_path: Path) -> None:
    build(write(tmp_path / "fer", {"fer2013.csv": table()}), tmp_path)
    assert [example["name"] for example in examples(tmp_path, "public_test")] == [f"row {n}" for n in range(1, 21, 3)]


def test_csv_path_of_any_name(tmp_path: Path) -> None:
    report = build(write(tmp_path, {"mine.csv": "\ufeff" + table()}) / "mine.csv", tmp_path)
    assert report["layout"] == "fer2013.csv"
    assert_every_face(tmp_path, "train", list(range(0, 21, 3)))


def test_train_csv_has_no_test(tmp_path: Path, complete: None) -> None:
    rows = "\n".join(["emotion,pixels", *(row(n, CODES[n], None) for n in range(7))])
    report = build(write(tmp_path / "fer", {"train.csv": rows, "test.csv": "pixels\n1 2 3"}), tmp_path)
    assert report["layout"] == "train.csv"
    assert list(report["splits"]) == ["train"]
    assert "only training pictures" in report["protocol"]
    assert any("test.csv carries no labels" in note for note in report["notes"])
    assert_every_face(tmp_path, "train", list(range(7)))


def test_renamed_pictures_cannot_be_split(tmp_path: Path, complete: None) -> None:
    report = build(write(tmp_path / "fer", folders(prefixed=False)), tmp_path)
    assert report["layout"] == "folders, renamed files"
    assert {split: numbers["examples"] for split, numbers in report["splits"].items()} == {"train": 7, "test": 14}
    assert "test mixes PublicTest and PrivateTest" in report["protocol"]
    assert_every_face(tmp_path, "test", [n for n in range(21) if n % 3])


def test_public_test_only(tmp_path: Path, complete: None) -> None:
    files = {name: data for name, data in folders().items() if "Private" not in name}
    report = build(write(tmp_path / "fer", files), tmp_path)
    assert list(report["splits"]) == ["train", "public_test"]
    assert "not with private test results" in report["protocol"]
    assert "not in this copy: private_test" in report["notes"]


def test_most_complete_layout_wins(tmp_path: Path) -> None:
    rows = "\n".join(["emotion,pixels", row(0, 0, None)])
    files = {"fer2013.csv": table(), "icml_face_data.csv": icml_table(), "train.csv": rows, "test.csv": "pixels\n1"}
    root = write(tmp_path / "fer", files | {f"pictures/{name}": data for name, data in folders().items()})
    report = build(root, tmp_path)
    assert report["layout"] == "fer2013.csv"
    assert report["notes"][0] == (
        "chose fer2013.csv; also there, not used: icml_face_data.csv, pictures/train/ and test/, train.csv"
    )


def test_pictures_keep_their_bytes(tmp_path: Path) -> None:
    grey, colour = encode(face(1), "JPEG"), encode(face(2, (48, 48, 3)), "JPEG")
    files = {"train/happy/Training_1.jpg": grey, "train/sad/Training_2.jpg": colour}
    report = build(write(tmp_path / "fer", files), tmp_path)
    assert [example["bytes"] for example in examples(tmp_path, "train")] == [grey, colour]
    assert not any("sizes" in note for note in report["notes"])
    mixed = splits.open_split("fer2013", "train", SEVEN, data_dir=str(tmp_path / "data"))
    stored = mixed.load(np.arange(2))["image"]  # a batch needs one shape: grey becomes colour
    assert [picture.shape for picture in stored] == [(48, 48, 3)] * 2
    np.testing.assert_array_equal(stored[0], np.repeat(np.asarray(pictures.decode(grey))[..., None], 3, axis=-1))
    np.testing.assert_array_equal(stored[1], np.asarray(pictures.decode(colour)))


BAD_ROWS = [
    (row(0, 7, "Training"), "emotion '7', expected a code from 0 to 6"),
    (row(0, "joyous", "Training"), "emotion 'joyous'"),
    (row(0, "1.5", "Training"), "emotion '1.5'"),
    (row(0, 0, "Holdout"), "unknown Usage 'Holdout'; known: training, publictest, privatetest, train, "),
    (row(0, 0, "Training", "1 2 3"), "3 pixels, expected 2,304"),
    (row(0, 0, "Training", ""), "0 pixels, expected 2,304"),
    (row(0, 0, "Training", " ".join(["1"] * 2303 + ["256"])), "no whole number from 0 to 255"),
    (row(0, 0, "Training", " ".join(["1"] * 2303 + ["-1"])), "no whole number from 0 to 255"),
    (row(0, 0, "Training", " ".join(["1"] * 2303 + ["x"])), "no whole number from 0 to 255"),
    ("0,1 2 3", "has 2 columns, expected 3"),
    (row(0, 0, "Training", "1 " * 200_000), "no valid CSV"),
]


@pytest.mark.parametrize(("bad", "why"), BAD_ROWS)
def test_bad_row_is_skipped_or_an_error(bad: str, why: str, tmp_path: Path) -> None:
    root = write(tmp_path / "fer", {"fer2013.csv": table([row(0, 0, "Training"), bad, row(7, 0, "Training")])})
    with pytest.raises(DataError, match="row 1: ") as error:
        build(root, tmp_path, strict=True)
    assert why in str(error.value)
    assert not (tmp_path / "data").exists()
    report = build(root, tmp_path)
    assert report["splits"]["train"]["examples"] == 2
    assert [entry["path"] for entry in report["skipped"]] == ["row 1"]
    assert why in report["skipped"][0]["why"]
    assert_every_face(tmp_path, "train", [0, 7])


def bomb() -> bytes:
    """A PNG of a few kilobytes that would take a hundred megabytes when decoded."""
    return encode(np.zeros((9000, 9000), np.uint8))


BAD_PICTURES = [
    (b"", "no JPEG, PNG, WebP, BMP or TIFF picture"),
    (b"text", "no JPEG, PNG, WebP, BMP or TIFF picture"),
    (encode(face(1), "GIF"), "no JPEG, PNG, WebP, BMP or TIFF picture"),
    (encode(face(1))[:-400], "cannot be decoded"),
    (encode(face(1), "JPEG")[:-400], "cannot be decoded"),
    (encode(face(1), "BMP")[:-400], "cannot be decoded"),
    (encode(face(1)) + bytes(MAX_MEMBER_BYTES), "larger than 64 MiB"),
]


@pytest.mark.parametrize(("bad", "why"), BAD_PICTURES)
def test_bad_picture_is_skipped_or_an_error(bad: bytes, why: str, tmp_path: Path) -> None:
    root = write(tmp_path / "fer", folders() | {"train/happy/Training_99.jpg": bad})
    with pytest.raises(DataError, match=r"train/happy/Training_99\.jpg: ") as error:
        build(root, tmp_path, strict=True)
    assert why in str(error.value)
    assert not (tmp_path / "data").exists()
    report = build(root, tmp_path)
    assert [entry["path"] for entry in report["skipped"]] == ["train/happy/Training_99.jpg"]
    assert why in report["skipped"][0]["why"]
    assert_every_face(tmp_path, "train", list(range(0, 21, 3)))


def test_decompression_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bomb()
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("the bomb was decoded"))
    with pytest.raises(pictures.BadPicture, match="9000x9000 pixels, more than 64,000,000"):
        pictures.decode(data)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("train/happy/PublicTest_99.png", "a test picture in the training folder"),
        ("test/happy/Training_99.png", "neither PublicTest nor PrivateTest"),
        ("test/happy/copy.png", "neither PublicTest nor PrivateTest"),
    ],
)
def test_picture_in_the_wrong_split(name: str, why: str, tmp_path: Path) -> None:
    report = build(write(tmp_path / "fer", folders() | {name: encode(face(99))}), tmp_path)
    assert [entry["path"] for entry in report["skipped"]] == [name]
    assert why in report["skipped"][0]["why"]


@pytest.mark.parametrize("folder", ["joy of life", "0", "contempt"])
def test_unknown_class_folder(folder: str, tmp_path: Path) -> None:
    root = write(tmp_path / "fer", folders() | {f"train/{folder}/Training_1.png": encode(face(1))})
    with pytest.raises(DataError, match=rf"unknown class folder 'train/{folder}'; known: angry, .*surprise"):
        build(root, tmp_path)
    assert not (tmp_path / "data").exists()


NOTHING: list[tuple[dict[str, Any], str]] = [
    ({}, "no FER-2013 recognised; expected a CSV with columns emotion, pixels and perhaps Usage, "),
    ({"readme.txt": "x"}, "no FER-2013 recognised"),
    ({"fer2013.csv": "a,b\n1,2"}, r"no FER-2013 recognised \(fer2013.csv has the header 'a', 'b'\)"),
    ({"fer2013.csv": ""}, "no FER-2013 recognised"),
    ({"fer2013.csv": table([])}, "no usable picture; put it right"),
    (
        {"train/0/1.png": encode(face(1)), "train/7/1.png": encode(face(1))},
        "unknown class folder 'train/7'; known: ang",
    ),
    (
        {"train/x/1.png": encode(face(1)), "train/y/1.png": encode(face(1))},
        "unknown class folder 'train/x'; known: ang",
    ),
    (
        {"f.csv": table([row(0, 7, "Training"), row(1, 1, "Training")])},
        "a class 7 and no class 0, and FER-2013's codes",
    ),
    ({"f.csv": table([row(0, 1, "Holdout")])}, r"\(the first: row 0: unknown Usage 'Holdout'; known: training, publ"),
    (folders() | {name: b"x" for name in folders() if "Public" in name}, "'public_test' has no usable picture among 7"),
    (
        {"fer2013.csv": table([row(0, 9, "Training")])},
        r"no usable row among 1 \(the first: row 0: emotion '9'.*its header has: 'emotion', 'pixels', 'U",
    ),
]


@pytest.mark.parametrize(("files", "why"), NOTHING)
def test_nothing_to_use(files: dict[str, Any], why: str, tmp_path: Path) -> None:
    (tmp_path / "fer").mkdir()
    with pytest.raises(DataError, match=why) as error:
        build(write(tmp_path / "fer", files), tmp_path)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["fer"]


def test_other_files_are_mentioned(tmp_path: Path) -> None:
    report = build(write(tmp_path / "fer", folders() | {"more/happy/1.png": encode(face(1))}), tmp_path)
    assert "not used: 1 picture, for example more/happy/1.png" in report["notes"]


def test_known_totals_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict.fromkeys(SEVEN, 1)
    monkeypatch.setattr(Fer2013, "KNOWN_COUNTS", {"train": known, "public_test": known | {"fear": 3}})
    report = build(write(tmp_path / "fer", folders()), tmp_path)
    assert report["notes"] == ["public_test: 7 pictures, the complete set has 9; different: fear 1 of 3"]
    assert "published" not in report["protocol"] and "compare only with results on the same files" in report["protocol"]


def test_known_totals_are_the_official_ones() -> None:
    totals = {split: sum(counts.values()) for split, counts in Fer2013.KNOWN_COUNTS.items()}
    assert totals == {"train": 28709, "public_test": 3589, "private_test": 3589, "test": 7178}
