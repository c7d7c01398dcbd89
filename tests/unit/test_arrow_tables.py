"""Hugging Face's files: every form of a picture, a label and a split is read right; damage and traps are one line."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines import pictures
from data_pipelines.builders import arrow_tables
from data_pipelines.builders.base import FaceBuilder
from data_pipelines.builders.fer2013 import Fer2013
from data_pipelines.builders.folder import Folder
from data_pipelines.common.errors import DataError
from data_pipelines.labels import FER2013_CODES, SEVEN
from data_pipelines.sources import open_source
from tests.disk import pack
from tests.unit.test_fer2013_builder import assert_every_face, build, encode, face

#: In an order that no data set has: whoever goes by number instead of by name is found out.
NAMES = ["surprise", "sad", "neutral", "happy", "fear", "disgust", "angry"]
MEANT = ["surprise", "sadness", "neutral", "happiness", "fear", "disgust", "anger"]

Columns = Mapping[str, Any]


def hugging(columns: Columns, names: list[str] | None = NAMES) -> pa.Table:
    """A table as the library datasets writes it: what its columns are lies in the metadata of the schema."""
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if names:
        features["label"] = {"names": names, "_type": "ClassLabel"}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    return pa.table(columns).replace_schema_metadata(metadata)


def structs(numbers: list[int]) -> list[dict[str, Any]]:
    return [{"bytes": encode(face(n)), "path": f"{n}.png"} for n in numbers]


def rows(numbers: list[int]) -> dict[str, Any]:
    return {"image": structs(numbers), "label": [n % 7 for n in numbers]}


def parquet(path: Path, table: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=5)
    return path


def arrow(path: Path, table: pa.Table, kind: Any = pa.ipc.new_stream) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink, kind(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return path


def read(
    source: Path, cls: type[FaceBuilder] = Fer2013
) -> tuple[dict[str, list[tuple[int, str]]], list[dict[str, str]], list[str]]:
    """{split: [(number of the face, label)]}, what was skipped, and the notes."""
    builder = cls(data_dir=str(source.parent / "no data"))
    plan = builder.plan(open_source(source))
    numbers = {face(n).tobytes(): n for n in range(100)}
    found = {}
    for name, split in plan.splits.items():
        taken = list(split.pictures())
        assert split.expected >= len(taken)
        assert len({picture.name for picture in taken}) == len({picture.order for picture in taken}) == len(taken)
        pixels = [np.asarray(pictures.decode(picture.image)).tobytes() for picture in taken]
        found[name] = [(numbers[p], picture.label) for p, picture in zip(pixels, taken, strict=True)]
    return found, builder.skipped.entries, plan.notes


def meant(numbers: list[int]) -> list[tuple[int, str]]:
    return [(n, MEANT[n % 7]) for n in numbers]


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tar.gz"])
def test_shards_become_a_data_set(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fer2013, "KNOWN_COUNTS", {})
    by_name = [MEANT.index(name) for name in SEVEN]  # of face n the label is SEVEN[n % 7]
    for split, numbers in {"train": range(14), "validation": range(14, 21), "test": range(21, 28)}.items():
        table = {"image": structs(list(numbers)), "label": [by_name[n % 7] for n in numbers], "id": list(numbers)}
        for part, half in enumerate((slice(0, 4), slice(4, None))):
            columns = {name: column[half] for name, column in table.items()}
            parquet(tmp_path / f"fer/data/{split}-0000{part}-of-00002.parquet", hugging(columns))
    report = build(pack(tmp_path / "fer", kind), tmp_path)
    assert report["layout"] == "Parquet files"
    assert report["notes"] == [
        "columns that were not used: 'id'",
        "its validation split is stored as public_test, its test split as private_test",
    ]
    assert_every_face(tmp_path, "train", list(range(14)))
    assert_every_face(tmp_path, "public_test", list(range(14, 21)))
    assert_every_face(tmp_path, "private_test", list(range(21, 28)))


@pytest.mark.parametrize("cls", [Fer2013, Folder])
def test_labels_go_by_the_names_in_the_schema(cls: type[FaceBuilder], tmp_path: Path) -> None:
    parquet(tmp_path / "hf/train-00000-of-00001.parquet", hugging(rows(list(range(14)))))
    found, skipped, _ = read(tmp_path / "hf", cls)
    assert (found, skipped) == ({"train": meant(list(range(14)))}, [])


def test_numbers_without_names(tmp_path: Path) -> None:
    path = parquet(tmp_path / "mine.parquet", hugging(rows(list(range(7))), names=None))
    found, _, notes = read(path)
    assert found == {"train": [(n, FER2013_CODES[n]) for n in range(7)]}
    assert "the classes are numbers: taken for FER-2013's codes 0 anger, 1 disgust, 2 fear" in notes[0] + notes[1]
    with pytest.raises(DataError, match="the label '0' is a number, and numbers mean different classes"):
        read(path, Folder)


LABELS: list[list[Any]] = [
    ["Angry", "disgusted", " fear", "HAPPY", "sad", "surprise", "neutral"],
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    ["0", "1", "2", "3", "4", "5", "6"],
]


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("column", ["label", "emotion", "Class"])
def test_other_labels(labels: list[Any], column: str, tmp_path: Path) -> None:
    table = pa.table({"img": structs(list(range(7))), column: labels})
    assert read(parquet(tmp_path / "x.parquet", table))[0] == {"train": [(n, FER2013_CODES[n]) for n in range(7)]}


def two(kind: Any) -> pa.Array:
    return pa.array([face(n).ravel().tolist() for n in range(2)], kind)


IMAGES = {
    "struct": structs([0, 1]),
    "only bytes": [{"bytes": encode(face(n))} for n in range(2)],
    "binary": [encode(face(n)) for n in range(2)],
    "large binary": pa.array([encode(face(n)) for n in range(2)], pa.large_binary()),
    "dictionary": pa.array([encode(face(n)) for n in range(2)]).dictionary_encode(),
    "rows": [face(n).tolist() for n in range(2)],
    "uint8 rows": pa.array([face(n).tolist() for n in range(2)], pa.list_(pa.list_(pa.uint8(), 48), 48)),
    "one channel": [face(n)[..., None].tolist() for n in range(2)],
    "flat": two(pa.large_list(pa.int64())),
    "fixed": two(pa.list_(pa.uint8(), 48 * 48)),
    "floats": two(pa.list_(pa.float32())),
    "text": [" ".join(map(str, face(n).ravel())) for n in range(2)],
    "list as text": [str(face(n).tolist()) for n in range(2)],
}


@pytest.mark.parametrize("write", [parquet, arrow])
@pytest.mark.parametrize("form", IMAGES)
def test_forms_of_pictures(form: str, write: Any, tmp_path: Path) -> None:
    path = write(tmp_path / f"x.{write.__name__}", pa.table({"pixels": IMAGES[form], "label": ["sad", "fear"]}))
    found, skipped, _ = read(path)
    assert (found, skipped) == ({"train": [(0, "sadness"), (1, "fear")]}, [])


def test_colour(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    path = parquet(tmp_path / "x.parquet", pa.table({"image": [colour.tolist()], "label": ["sad"]}))
    (picture,) = Folder(data_dir=str(tmp_path / "data")).plan(open_source(path)).splits["train"].pictures()
    np.testing.assert_array_equal(pictures.decode(picture.image), colour)


BAD = [
    (None, "sad", "there is no picture in its row"),
    ([1, 2, 3], "sad", "3 pixels in a row are no square picture"),
    ([0] * 2303 + [256], "sad", "a pixel is no whole number from 0 to 255"),
    ([0] * 2303 + [None], "sad", "1 of them missing"),
    ([], "sad", "0 pixels"),
    ([0] * 4, None, "no label"),
    ([0] * 4, " ", "no label"),
    ([0] * 4, "contempt", "emotion 'contempt', expected a code from 0 to 6 or a name"),
]


@pytest.mark.parametrize(("image", "label", "why"), BAD)
def test_a_bad_row_is_skipped_by_name(image: Any, label: Any, why: str, tmp_path: Path) -> None:
    table = {"image": [face(0).ravel().tolist(), image, face(2).ravel().tolist()], "label": ["sad", label, "fear"]}
    found, skipped, _ = read(parquet(tmp_path / "x.parquet", pa.table(table)))
    assert found == {"train": [(0, "sadness"), (2, "fear")]}
    assert [entry["path"] for entry in skipped] == ["x.parquet row 1"] and why in skipped[0]["why"]


def test_a_number_without_a_name(tmp_path: Path) -> None:
    table = hugging({"image": structs([0, 1]), "label": [-1, 1]})
    found, skipped, _ = read(parquet(tmp_path / "x.parquet", table))
    assert found == {"train": meant([1])}
    assert skipped == [
        {"path": "x.parquet row 0", "why": "the label -1, and the file has names for 0 to 6 only"}
    ]  # as in test sets without labels


@pytest.mark.parametrize("kind", ["folder", "tar.xz"])
def test_what_save_to_disk_writes(kind: str, tmp_path: Path) -> None:
    for split, numbers in {"train": list(range(14)), "test": list(range(14, 21))}.items():
        arrow(tmp_path / f"saved/{split}/data-00000-of-00001.arrow", hugging(rows(numbers)))
        (tmp_path / f"saved/{split}/state.json").write_text('{"_split": null}')
        arrow(tmp_path / f"saved/{split}/cache-0123.arrow", hugging(rows([50])))  # of a `map`, not of the data set
    (tmp_path / "saved/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    found, skipped, _ = read(pack(tmp_path / "saved", kind))
    assert (found, skipped) == ({"train": meant(list(range(14))), "test": meant(list(range(14, 21)))}, [])


def test_a_saved_split_alone_says_which_it_is(tmp_path: Path) -> None:
    arrow(tmp_path / "saved/data-00000-of-00001.arrow", hugging(rows([3])), pa.ipc.new_file)
    assert list(read(tmp_path / "saved", Folder)[0]) == ["train"]
    assert "neither the files' names nor a column tell a split: everything is train" in read(tmp_path / "saved")[2]
    (tmp_path / "saved/state.json").write_text('{"_split": "test"}')
    assert list(read(tmp_path / "saved", Folder)[0]) == ["test"]


def test_splits_by_a_column(tmp_path: Path) -> None:
    words = ["Training", "PublicTest", "PrivateTest", "train", "holdout"]
    table = pa.table({"pixels": IMAGES["text"] + IMAGES["text"] + ["0"], "emotion": [0, 1, 2, 3, 4], "Usage": words})
    found, skipped, _ = read(parquet(tmp_path / "train.parquet", table))
    assert {split: [label for _, label in part] for split, part in found.items()} == {
        "train": ["anger", "happiness"], "public_test": ["disgust"], "private_test": ["fear"],
    }  # fmt: skip
    assert [entry["path"] for entry in skipped] == ["train.parquet row 4"]
    assert "unknown split 'holdout'; known: training, publictest" in skipped[0]["why"]


def test_a_file_whose_split_cannot_be_told_is_named(tmp_path: Path) -> None:
    for name in ("train", "extra"):
        parquet(tmp_path / f"hf/{name}-00000-of-00001.parquet", hugging(rows([1, 2])))
    found, skipped, _ = read(tmp_path / "hf")
    assert found == {"train": meant([1, 2])}
    assert [entry["path"] for entry in skipped] == ["extra-00000-of-00001.parquet"]
    assert "nothing to use among 2" in skipped[0]["why"] and "the file's name tells no split" in skipped[0]["why"]


def test_another_configuration_is_not_mixed_in(tmp_path: Path) -> None:
    for place in ("b/train", "b/test", "a/train"):
        parquet(tmp_path / f"hf/{place}/0000.parquet", hugging(rows([1])))
    found, _, notes = read(tmp_path / "hf")
    assert found == {"train": meant([1]), "test": meant([1])}
    assert "not used: 1 file of another folder or kind, for example a/train/0000.parquet" in notes


REFUSED: list[tuple[Columns, str]] = [
    ({"image": [{"bytes": None, "path": "/home/x/1.png"}], "label": [0]}, "only paths of pictures, as '/home/x/1.png'"),
    ({"image": ["/home/x/1.png"], "label": [0]}, r"the column 'image' has only paths of pictures, .*; give the folder"),
    ({"image": [{"path": "1.png"}], "label": [0]}, "the column 'image' has no field bytes; it has: 'path'"),
    ({"photo": structs([1]), "mood": ["sad"]}, "no column of pictures or labels; it has: 'photo', 'mood'; pictures: i"),
    ({"image": structs([1]), "label": [9]}, r"no usable picture \(the first: x.parquet: nothing to use among 1"),
    ({"image": structs([1]), "label": ["7"]}, "a class 7 and no class 0"),
    ({"image": [], "label": []}, "no usable picture"),
]


@pytest.mark.parametrize(("columns", "why"), REFUSED)
def test_what_cannot_be_read_is_one_line(columns: Columns, why: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=why) as error:
        read(parquet(tmp_path / "x.parquet", pa.table(columns)))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("write", [parquet, arrow])
def test_damaged_files_are_read_or_refused_in_one_line(write: Any, tmp_path: Path) -> None:
    path = write(tmp_path / f"x.{write.__name__}", hugging(rows(list(range(7)))))
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for number in range(60):
        content = bytearray(whole[: rng.randrange(len(whole))] if number % 3 == 0 else whole)
        for _ in range(4 * (number % 3)):
            place = rng.choice(
                (rng.randrange(len(content)), rng.randrange(1000), len(content) - 1 - rng.randrange(1000))
            )
            content[place] = rng.randrange(256)
        path.write_bytes(content)
        try:
            list(Fer2013(data_dir=str(tmp_path / "data")).plan(open_source(path)).splits["train"].pictures())
        except DataError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            refused += 1
    assert refused >= 20


def test_sizes_that_a_file_claims_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = arrow(tmp_path / "x.arrow", hugging(rows(list(range(7)))))
    assert read(path)[0] == {"train": meant(list(range(7)))}
    monkeypatch.setattr(arrow_tables, "LARGEST_READ", 5000)
    with pytest.raises(DataError, match=r"x\.arrow: cannot be read \(.*a block of [0-9,]+ bytes, more than 5,000"):
        read(path)


def test_a_picture_of_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_tables, "MAX_MEMBER_BYTES", 3000)
    large = {"bytes": encode(face(1)) + bytes(3000), "path": None}
    path = parquet(tmp_path / "x.parquet", pa.table({"image": [*structs([0]), large], "label": ["sad", "sad"]}))
    found, skipped, _ = read(path)
    assert found == {"train": [(0, "sadness")]}
    assert [entry["path"] for entry in skipped] == ["x.parquet row 1"] and "larger than" in skipped[0]["why"]


def test_half_a_download_is_no_data_set(tmp_path: Path) -> None:
    source = tmp_path / "hf"
    for part in (0, 2):
        parquet(source / f"data/train-0000{part}-of-00003.parquet", hugging(rows([1, 2, 3])))
    with pytest.raises(DataError, match=r"data/train-00001-of-00003\.parquet.? is not there; give all files"):
        build(source, tmp_path)
