"""Every layout of RAF-DB that people have becomes the same data set, and what is wrong in one is named."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_pipelines.builders.base import Plan
from data_pipelines.builders.rafdb import RafDb
from data_pipelines.common.errors import DataError
from data_pipelines.prepare import prepare, read_info
from data_pipelines.sources import open_source
from tests.disk import pack, write

CLASSES = {  # by number, written out by hand
    1: "surprise",
    2: "fear",
    3: "disgust",
    4: "happiness",
    5: "sadness",
    6: "anger",
    7: "neutral",
}
ONE_EACH = dict.fromkeys(sorted(CLASSES.values()), 1)
LISTS = ["list_patition_label.txt", "list_partition_label.txt"]


def face(seed: int, side: int = 20) -> np.ndarray:
    """A picture whose brightness tells its number, up to 31, also after JPEG."""
    return np.full((side, side, 3), seed * 8, np.uint8)


def encode(seed: int, kind: str = "PNG", side: int = 20) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(face(seed, side)).save(stream, kind)
    return stream.getvalue()


def stored(data_set: str, tmp_path: Path, split: str) -> dict[str, tuple[str, int]]:
    """Name of each stored picture, in the order of storage, with its label and the number that its brightness tells."""
    builder = read_info(data_set, str(tmp_path / "data"))
    labels = builder.info.features["label"].names
    examples = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    found = {}
    for example in (examples[i] for i in range(len(examples))):
        pixels = np.asarray(Image.open(io.BytesIO(example["image"])).convert("RGB"))
        found[example["name"].decode()] = (labels[example["label"]], round(float(pixels.mean()) / 8))
    assert len(found) == len(examples)
    return found


def build(source: Path, tmp_path: Path, strict: bool = False) -> dict[str, Any]:
    return prepare("rafdb", str(source), data_dir=str(tmp_path / "data"), strict=strict)


def make_plan(source: Path, tmp_path: Path) -> Plan:
    return RafDb(data_dir=str(tmp_path / "data")).plan(open_source(source))


def lines(codes: Mapping[str, object] | None = None) -> str:
    """The authors' list: a picture of each class in train (1 to 7) and test (8 to 14)."""
    if codes is None:
        codes = {f"{'train' if n < 8 else 'test'}_{n:05}.jpg": (n - 1) % 7 + 1 for n in range(1, 15)}
    return "".join(f"{name} {code}\n" for name, code in codes.items())


def official(prefix: str = "", table: str = LISTS[0], kind: str = "aligned") -> dict[str, bytes | str]:
    files: dict[str, bytes | str] = {f"{prefix}EmoLabel/{table}": lines()}
    ending = "_aligned" if kind == "aligned" else ""
    for n in range(1, 15):
        name = f"{'train' if n < 8 else 'test'}_{n:05}{ending}.jpg"
        files[f"{prefix}Image/{kind}/{name}"] = encode(n, "JPEG", 20 if kind == "aligned" else 24)
    return files


OFFICIAL_TRAIN = {f"train_{n:05}.jpg": (CLASSES[n], n) for n in range(1, 8)}
OFFICIAL_TEST = {f"test_{n:05}.jpg": (CLASSES[n - 7], n) for n in range(8, 15)}


def kaggle(prefix: str = "", csv: bool = True) -> dict[str, bytes | str]:
    """Class folders; by the tables, the first picture of train is no surprise but neutral."""
    files: dict[str, bytes | str] = {}
    tables = {"train": ["image,label"], "test": ["image,label"]}
    for n in range(1, 15):
        split = "train" if n < 8 else "test"
        name = f"{split}_{n:05}_aligned.jpg"
        files[f"{prefix}DATASET/{split}/{(n - 1) % 7 + 1}/{name}"] = encode(n, "JPEG")
        tables[split].append(f"{name},{7 if n == 1 else (n - 1) % 7 + 1}")
    if csv:
        files |= {f"{prefix}{split}_labels.csv": "\n".join(rows) for split, rows in tables.items()}
    return files


def kaggle_names(split: str) -> dict[str, tuple[str, int]]:
    numbers = range(1, 8) if split == "train" else range(8, 15)
    return {f"{split}/{(n - 1) % 7 + 1}/{split}_{n:05}_aligned.jpg": (CLASSES[(n - 1) % 7 + 1], n) for n in numbers}


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures drawn here are the complete data set."""
    monkeypatch.setattr(RafDb, "KNOWN_COUNTS", dict.fromkeys(("train", "test"), ONE_EACH))


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz"])
def test_official(kind: str, tmp_path: Path, complete: None) -> None:
    report = build(pack(write(tmp_path / "raf", official("basic/")), kind), tmp_path)
    assert report["layout"] == "official, aligned pictures"
    assert "test may be compared with published RAF-DB results" in report["protocol"]
    assert {split: part["classes"] for split, part in report["splits"].items()} == {"train": ONE_EACH, "test": ONE_EACH}
    assert report["skipped"] == []
    assert list(stored("rafdb", tmp_path, "train").items()) == list(OFFICIAL_TRAIN.items())
    assert list(stored("rafdb", tmp_path, "test").items()) == list(OFFICIAL_TEST.items())


@pytest.mark.parametrize("prefix", ["", "basic/", "my/copy/basic/"])
@pytest.mark.parametrize("table", LISTS)
def test_official_anywhere_and_either_spelling(prefix: str, table: str, tmp_path: Path) -> None:
    plan = make_plan(write(tmp_path / "raf", official(prefix, table)), tmp_path)
    assert plan.layout == "official, aligned pictures"
    assert plan.aligned
    for split, expected in {"train": OFFICIAL_TRAIN, "test": OFFICIAL_TEST}.items():
        pictures = list(plan.splits[split].pictures())
        assert plan.splits[split].expected == len(pictures) == 7
        assert {picture.name: picture.label for picture in pictures} == {name: of for name, (of, _) in expected.items()}


def test_list_beside_the_pictures(tmp_path: Path) -> None:
    files = {name.replace("EmoLabel/", ""): data for name, data in official("basic/", LISTS[1]).items()}
    plan = make_plan(write(tmp_path / "raf", files | {f"basic/{LISTS[0]}": "damaged"}), tmp_path)
    assert {picture.name for picture in plan.splits["test"].pictures()} == set(OFFICIAL_TEST)
    assert plan.notes == [f"chose basic/{LISTS[1]}; also there, not used: basic/{LISTS[0]}"]


def test_original_pictures_where_there_are_no_aligned_ones(tmp_path: Path, complete: None) -> None:
    source = write(tmp_path / "raf", official(kind="original"))
    report = build(source, tmp_path)
    assert report["layout"] == "official, original pictures"
    assert "these are the original photographs" in report["protocol"]
    assert not make_plan(source, tmp_path).aligned
    assert stored("rafdb", tmp_path, "train") == OFFICIAL_TRAIN


def test_aligned_pictures_are_preferred(tmp_path: Path) -> None:
    files = official() | {name: data for name, data in official(kind="original").items() if "Image" in name}
    plan = make_plan(write(tmp_path / "raf", files), tmp_path)
    sizes = {Image.open(io.BytesIO(picture.image)).size for picture in plan.splits["train"].pictures()}
    assert sizes == {(20, 20)}
    assert plan.notes == ["chose Image/aligned/; also there, not used: Image/original/"]


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_kaggle_tables_overrule_folders(kind: str, tmp_path: Path) -> None:
    report = build(pack(write(tmp_path / "raf", kaggle()), kind), tmp_path)
    assert report["layout"] == "Kaggle"
    expected = kaggle_names("train") | {"train/1/train_00001_aligned.jpg": ("neutral", 1)}
    assert stored("rafdb", tmp_path, "train") == expected
    assert stored("rafdb", tmp_path, "test") == kaggle_names("test")
    differences = [note for note in report["notes"] if "another class" in note]
    assert len(differences) == 1
    assert differences[0].startswith("1 picture with another class in ")
    assert "train_labels.csv" in differences[0]


def test_kaggle_without_tables(tmp_path: Path) -> None:
    plan = make_plan(write(tmp_path / "raf", kaggle("archive/", csv=False)), tmp_path)
    assert plan.aligned
    for split in ("train", "test"):
        labels = {picture.name: picture.label for picture in plan.splits[split].pictures()}
        assert labels == {name: label for name, (label, _) in kaggle_names(split).items()}
        assert f"no {split}_labels.csv: the folders give the classes of {split}" in plan.notes


def test_kaggle_picture_that_the_table_does_not_have(tmp_path: Path) -> None:
    extra = {"DATASET/train/2/train_00099_aligned.jpg": encode(9)}
    report = build(write(tmp_path / "raf", kaggle() | extra), tmp_path)
    assert report["splits"]["train"]["examples"] == 7
    assert (
        "not used: 1 picture without a usable row in train_labels.csv, for example "
        "DATASET/train/2/train_00099_aligned.jpg" in report["notes"]
    )


def test_byte_order_mark_blanks_and_windows_line_ends(tmp_path: Path) -> None:
    files = kaggle()
    for split in ("train", "test"):
        rows = str(files[f"{split}_labels.csv"]).replace("image,label", "\ufeff image , Label ").splitlines()
        files[f"{split}_labels.csv"] = "\r\n".join(row.replace(",", " , ") for row in rows) + "\r\n\r\n"
    plan = make_plan(write(tmp_path / "raf", files), tmp_path)
    labels = {picture.name: picture.label for picture in plan.splits["test"].pictures()}
    assert labels == {name: label for name, (label, _) in kaggle_names("test").items()}


def test_training_part_alone(tmp_path: Path, complete: None) -> None:
    files = {name: data for name, data in kaggle(csv=False).items() if "test" not in name}
    report = build(write(tmp_path / "raf", files), tmp_path)
    assert list(report["splits"]) == ["train"]
    assert "not in this copy: test" in report["notes"]
    assert "only training pictures" in report["protocol"]


def test_known_totals_are_compared(tmp_path: Path) -> None:
    assert sum(RafDb.KNOWN_COUNTS["train"].values()) == 12_271
    assert sum(RafDb.KNOWN_COUNTS["test"].values()) == 3_068
    assert RafDb.KNOWN_COUNTS["train"]["happiness"] == 4_772
    assert RafDb.KNOWN_COUNTS["test"]["fear"] == 74
    notes = build(write(tmp_path / "raf", official()), tmp_path)["notes"]
    assert any(note.startswith("test: 7 pictures, the complete set has 3,068; different: ") for note in notes)


BAD_LINES = [
    ("train_00099.jpg 4\n", "its picture 'train_00099.jpg' is not in {raf}/Image/aligned/"),
    ("train_00001.jpg 4\n", "'train_00001.jpg' is listed in row 0 already"),
    ("../../etc/passwd 4\n", "begins with neither train_ nor test_"),
    ("/etc/passwd 4\n", "begins with neither train_ nor test_"),
    ("validation_00001.jpg 4\n", "begins with neither train_ nor test_"),
    ("train_00001.jpg\n", "1 field, expected name and class"),
    ("train_00001.jpg happy\n", "class 'happy', expected a number from 1 to 7"),
    ("train_00001.jpg 4 4\n", "3 fields, expected name and class"),
    ("train_00001.jpg " + "4" * 3_000_000 + "\n", "a line of more than 1,048,576 characters"),
]


@pytest.mark.parametrize(("bad", "why"), BAD_LINES)
def test_bad_line_is_skipped_or_an_error(bad: str, why: str, tmp_path: Path) -> None:
    files = official()
    rows = lines().splitlines(keepends=True)
    files[f"EmoLabel/{LISTS[0]}"] = "".join([*rows[:2], bad, *rows[2:]])
    source = write(tmp_path / "raf", files)
    with pytest.raises(DataError, match=r"list_patition_label\.txt row 2: ") as error:
        build(source, tmp_path, strict=True)
    why = why.replace("{raf}", str(source))
    assert why in str(error.value)
    assert not (tmp_path / "data" / "rafdb").exists()
    report = build(source, tmp_path)
    assert [entry["path"] for entry in report["skipped"]] == [f"EmoLabel/{LISTS[0]} row 2"]
    assert why in report["skipped"][0]["why"]
    assert stored("rafdb", tmp_path, "train") == OFFICIAL_TRAIN
    assert stored("rafdb", tmp_path, "test") == OFFICIAL_TEST


BAD_ROWS = [
    ("../../etc/passwd,4", "its picture '../../etc/passwd' is not in {raf}/DATASET/train/"),
    ("/etc/passwd,4", "its picture '/etc/passwd' is not in {raf}/DATASET/train/"),
    ("train_00001_aligned.jpg,4", "is listed in row 0 already"),
    ("train_00099_aligned.jpg,4", "its picture 'train_00099_aligned.jpg' is not in {raf}/DATASET/train/"),
    ("train_00099_aligned.jpg", "has 1 column, expected 2"),
    ("train_00001_aligned.jpg,", "class '', expected a number from 1 to 7"),
    ('"train_00001_aligned.jpg,4', "has 1 column, expected 2"),  # takes no other row with it
    ("train_00001_aligned.jpg," + "4" * 200_000, "no valid CSV"),
]


@pytest.mark.parametrize(("bad", "why"), BAD_ROWS)
def test_bad_row_is_skipped(bad: str, why: str, tmp_path: Path) -> None:
    files = kaggle()
    rows = str(files["train_labels.csv"]).splitlines()
    files["train_labels.csv"] = "\n".join([*rows[:3], bad, *rows[3:]])
    source = write(tmp_path / "raf", files)
    why = why.replace("{raf}", str(source))
    report = build(source, tmp_path)
    assert [entry["path"] for entry in report["skipped"]] == ["train_labels.csv row 2"]
    assert why in report["skipped"][0]["why"]
    assert report["splits"]["train"]["examples"] == 7


def test_no_row_reaches_a_picture_outside(tmp_path: Path) -> None:
    outside = (
        write(tmp_path, {"train_.jpg": encode(9), "train_/x": "", "raf/Image/aligned/train_/x": ""}) / "train_.jpg"
    )
    ways = ["train_/../../../../train_.jpg", "../../../train_.jpg", str(outside)]
    assert all((tmp_path / "raf/Image/aligned" / way).resolve() == outside.resolve() for way in ways)
    files = official() | {f"EmoLabel/{LISTS[0]}": lines() + "".join(f"{way} 4\n" for way in ways)}
    assert len(build(write(tmp_path / "raf", files), tmp_path)["skipped"]) == 3
    assert stored("rafdb", tmp_path, "train") == OFFICIAL_TRAIN
    tabled = kaggle()
    tabled["train_labels.csv"] = "\n".join([str(tabled["train_labels.csv"]), *(f"{way},4" for way in ways)])
    pictures = make_plan(write(tmp_path / "kaggle", tabled), tmp_path).splits["train"].pictures()
    assert {picture.name for picture in pictures} == set(kaggle_names("train"))


def test_picture_that_is_none_is_skipped(tmp_path: Path) -> None:
    source = write(tmp_path / "raf", official() | {"Image/aligned/train_00003_aligned.jpg": b"text"})
    report = build(source, tmp_path)
    assert [entry["path"] for entry in report["skipped"]] == ["train_00003.jpg"]
    assert report["splits"]["train"]["classes"] == ONE_EACH | {"disgust": 0}


NOTHING: list[tuple[dict[str, Any], str]] = [
    ({}, "no RAF-DB recognised; expected EmoLabel/list_patition_label.txt"),
    ({"readme.txt": "x"}, "no RAF-DB recognised"),
    ({f"EmoLabel/{LISTS[0]}": ""} | {"Image/aligned/train_00001_aligned.jpg": encode(1)}, "no usable picture"),
    (
        {f"EmoLabel/{LISTS[0]}": lines()},
        r"no usable picture .*among 14 .*'train_00001.jpg' is not in .*/raf/Image/aligned/",
    ),
    (kaggle() | {"train_labels.csv": "picture,label\nx,1"}, "train_labels.csv: no column image; its header has: 'pict"),
    (kaggle() | {"test_labels.csv": ""}, "test_labels.csv: no column image, label; its header has: nothing"),
    (
        kaggle() | {"DATASET/train/0/train_00009_aligned.jpg": encode(1)},
        "unknown class folder 'DATASET/train/0'; known: 1",
    ),
    ({"train/contempt/1.jpg": encode(1)}, "unknown class folder 'train/contempt'; known: 1 surprise, 2 fear"),
]


@pytest.mark.parametrize(("files", "why"), NOTHING)
def test_nothing_to_use(files: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=why) as error:
        build(write(tmp_path / "raf", files), tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data" / "rafdb").exists()


@pytest.mark.parametrize("code", [0, 8, 12])
def test_numbers_of_another_data_set_are_an_error(code: int, tmp_path: Path) -> None:
    """In a copy that counts from 0, all other numbers would be read as other classes than they mean."""
    listed = official() | {f"EmoLabel/{LISTS[0]}": lines({"train_00001.jpg": 1, "train_00002.jpg": code})}
    with pytest.raises(
        DataError, match=rf"patition_label.txt: 'train_00002.jpg' has the class '{code}'; known: 1 surp"
    ):
        build(write(tmp_path / "raf", listed), tmp_path)
    tabled = kaggle() | {"train_labels.csv": f"image,label\ntrain_00001_aligned.jpg,{code}"}
    with pytest.raises(DataError, match=rf"train_labels.csv: 'train_00001_aligned.jpg' has the class '{code}'"):
        build(write(tmp_path / "kaggle", tabled), tmp_path)


def lists(form: str) -> str:
    """The authors' list as copies have it."""
    rows = [line.split() for line in lines().splitlines()]
    forms = {
        "aligned": lambda name, code: f"{name.replace('.', '_aligned.')} {code}",
        "comma": lambda name, code: f"{name},{code}",
        "bare": lambda name, code: f"{name.removesuffix('.jpg')} {code}",
    }
    return "\n".join(forms[form](*row) for row in rows)


@pytest.mark.parametrize("form", ["aligned", "comma", "bare"])
@pytest.mark.parametrize("place", ["Image/aligned/", "image/Aligned/", "aligned/", "aligned/nested/", ""])
def test_lists_and_folders_of_copies(form: str, place: str, tmp_path: Path) -> None:
    table = f"{'emolabel/' if place[:5] == 'image' else ''}{LISTS[0]}"
    pictures = {name: data for name, data in official().items() if name.endswith(".jpg")}
    files = {f"{place}{name.rpartition('/')[2]}": data for name, data in pictures.items()} | {table: lists(form)}
    plan = make_plan(write(tmp_path / "raf", files), tmp_path)
    assert plan.aligned and plan.layout == "official, aligned pictures"
    for split, expected in (("train", OFFICIAL_TRAIN), ("test", OFFICIAL_TEST)):
        found = {picture.name: picture.label for picture in plan.splits[split].pictures()}
        assert found == {name: label for name, (label, _) in expected.items()}


def test_named_class_folders(tmp_path: Path) -> None:
    names = ("surprise", "Fear", "disgust", "happy", "sad", "angry", "neutral")  # 1 to 7
    files: dict[str, bytes | str] = {}
    for name, data in kaggle(csv=False).items():
        _, split, code, file = name.split("/")
        files[f"raf/{split}/{names[int(code) - 1]}/{file}"] = data
    report = build(write(tmp_path / "raf", files), tmp_path)
    assert report["layout"] == "Kaggle, named folders"
    assert {split: part["classes"] for split, part in report["splits"].items()} == {"train": ONE_EACH, "test": ONE_EACH}
    assert dict(stored("rafdb", tmp_path, "train").values()) == {label: n for n, label in CLASSES.items()}


def test_codes_of_a_copy_that_counts_otherwise(tmp_path: Path) -> None:
    order = ("anger", "disgust", "fear", "happy", "neutral", "sad", "surprised")  # 0 to 6
    listed = official() | {f"EmoLabel/{LISTS[0]}": lines({f"train_{n:05}.jpg": n - 1 for n in range(1, 8)})}
    source = str(write(tmp_path / "raf", listed))
    report = prepare("rafdb", source, data_dir=str(tmp_path / "data"), codes=order)
    assert [label for label, _ in stored("rafdb", tmp_path, "train").values()] == sorted(CLASSES.values())
    assert report["notes"][0].startswith("numbers are classes as --codes has them: 0 anger, 1 disgust, ")
    again = prepare("rafdb", source, data_dir=str(tmp_path / "data"), codes=order)
    assert again == report | {"already_prepared": True}
    with pytest.raises(
        DataError, match=r"prepared with --codes anger,.* \(asked for now: no --codes\); add --overwrite"
    ):
        prepare("rafdb", source, data_dir=str(tmp_path / "data"))
    for codes, why in {
        ("anger", "happy"): r"--codes has 2 names for 7 numbers \(0, 1, 2, 3, 4, 5, 6\)",
        (*order[:6], "suprise"): "no class 'suprise'; did you mean surprise",
        (*order[:6], "angry"): "anger is there twice",
        (*order[:6], "contempt"): "no class 'contempt'",
    }.items():
        with pytest.raises(DataError, match=why):
            prepare("rafdb", source, data_dir=str(tmp_path / "other"), codes=codes)
