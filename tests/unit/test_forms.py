"""Drawn copies of FER-2013 in every form: each picture is read with its class and split, or named where it cannot be.

What a copy holds is drawn first, then written in a form: nothing of how it is read is used to say what is right.
"""

import gzip
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines import pictures
from data_pipelines.builders.base import FaceBuilder
from data_pipelines.builders.fer2013 import Fer2013
from data_pipelines.builders.folder import Folder
from data_pipelines.common.errors import DataError
from data_pipelines.labels import FER2013_CODES
from data_pipelines.prepare import prepare
from data_pipelines.sources import open_source
from tests.disk import pack, write
from tests.unit.test_fer2013_builder import encode, face, row, table

#: What a copy calls training, public and private test; then the split that the third one is.
WORDS = [
    (("Training", "PublicTest", "PrivateTest"), "private_test"),
    (("train", "validation", "test"), "private_test"),
    (("TRAIN", "Val", "Testing"), "private_test"),
    (("train", "valid", "private_test"), "private_test"),
    (("training", "public test", "Test"), "private_test"),
    (("train", None, "test"), "test"),  # nobody can tell which of the two it is
]
NAMES = ("Angry", "disgust", "FEAR", "happy", "Sadness", "Surprised", "neutral")  # in the order of the codes
LABELS: dict[str, Callable[[int], Any]] = {
    "code": int,
    "float": float,
    "name": NAMES.__getitem__,
    "class label": lambda code: 6 - code,  # of names in reverse order
}
PIXELS: dict[str, Callable[[int], Any]] = {
    "blanks": lambda n: " ".join(map(str, face(n).ravel())),
    "brackets": lambda n: str(face(n).ravel().tolist()),
    "struct": lambda n: {"bytes": encode(face(n)), "path": f"{n}.png"},
    "bytes": lambda n: encode(face(n)),
    "rows": lambda n: face(n).tolist(),
    "flat": lambda n: face(n).ravel().tolist(),
}


class Drawn(NamedTuple):
    """A face of a copy."""

    number: int
    code: int
    place: int  # which of the words
    bad: bool  # nobody can use it


def drawn(seed: int) -> tuple[list[Drawn], tuple[str | None, ...], str]:
    rng = random.Random(seed)
    words, third = WORDS[seed % len(WORDS)]
    places = [place for place, word in enumerate(words) if word]
    faces = [Drawn(n, rng.randrange(7), rng.choice(places), n > len(places) and rng.random() < 0.2) for n in range(20)]
    return [one._replace(place=places[n]) if n < len(places) else one for n, one in enumerate(faces)], words, third


def csv(root: Path, faces: list[Drawn], words: Any, label: str, pixels: str, seed: int) -> dict[int, str]:
    """A CSV for all or one for each split, in one of many codings. Returns what people call the bad ones."""
    separator, coding = ",;\t"[seed % 3], ("utf-8", "utf-8-sig", "utf-16")[seed // 3 % 3]
    apart, packed = seed % 5 == 0 and None not in words, seed % 2 == 0
    named, files = {}, {}
    for place in range(3) if apart else (None,):
        inside = [one for one in faces if place in (None, one.place)]
        lines = [separator.join(["emotion", "pixels", *([] if apart else ["Usage"])])]
        name = f"my_{words[place]}.csv" if apart else f"faces{seed}.csv"
        for number, one in enumerate(inside):
            text = "1 2 3" if one.bad else PIXELS[pixels](one.number)
            cells = [str(LABELS[label](one.code)), f'"{text}"', *([] if apart else [words[one.place]])]
            lines.append(separator.join(cells))
            named[one.number] = f"{name} row {number}" if apart else f"row {number}"
        content = "\r\n".join(lines).encode(coding)
        files[name + ".gz" * packed] = gzip.compress(content) if packed else content
        if packed:
            named |= {n: text.replace(".csv", ".csv.gz") for n, text in named.items() if text.startswith(name + " ")}
    write(root, files)
    return {one.number: named[one.number] for one in faces if one.bad}


def folders(root: Path, faces: list[Drawn], words: Any, label: str, pixels: str, seed: int) -> dict[int, str]:
    """Class folders in split folders, or the other way round."""
    files, bad = {}, {}
    for one in faces:
        above, below = words[one.place], str(LABELS[label](one.code))
        name = f"{below}/{above}/im{one.number}.png" if seed % 2 else f"{above}/{below}/im{one.number}.png"
        files[f"deep/{name}"] = b"nothing" if one.bad else encode(face(one.number))
        if one.bad:
            bad[one.number] = name
    write(root, files)
    return bad


def arrow(root: Path, faces: list[Drawn], words: Any, label: str, pixels: str, seed: int) -> dict[int, str]:
    """Parquet shards, folders of `save_to_disk`, or one Parquet file with a column for the split."""
    features = {"label": {"names": list(reversed(NAMES)), "_type": "ClassLabel"}} if label == "class label" else {}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    bad = {}
    for place in (None,) if seed % 3 == 0 else range(3):
        inside = [one for one in faces if place in (None, one.place)]
        if not inside:
            continue
        columns = {
            "image": [None if one.bad else PIXELS[pixels](one.number) for one in inside],
            "label": [LABELS[label](one.code) for one in inside],
        }
        if place is None:
            columns["split"] = [words[one.place] for one in inside]
        names = ["all.parquet"] if place is None else [f"data/{words[place]}-00000-of-00001.parquet"]
        names = [f"{words[place]}/data-00000-of-00001.arrow"] if seed % 3 == 1 else names
        path = root / names[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = pa.table(columns).replace_schema_metadata(metadata)
        if path.suffix == ".arrow":
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, rows.schema) as writer:
                writer.write_table(rows, max_chunksize=3)
        else:
            pq.write_table(rows, path, row_group_size=4)
        bad |= {
            one.number: f"{names[0].removeprefix('data/')} row {number}" for number, one in enumerate(inside) if one.bad
        }
    return bad


FORMS = [
    *itertools.product([csv], ["code", "float", "name"], ["blanks", "brackets"]),
    *itertools.product([folders], ["code", "name"], [""]),
    *itertools.product([arrow], LABELS, PIXELS),
]
COPIES = [(seed, *FORMS[seed % len(FORMS)]) for seed in range(2 * len(FORMS))]


@pytest.mark.parametrize(("seed", "form", "label", "pixels"), COPIES)
def test_every_picture_is_read_or_named(seed: int, form: Any, label: str, pixels: str, tmp_path: Path) -> None:
    faces, words, third = drawn(seed)
    bad = form(tmp_path / "fer", faces, words, label, pixels, seed)
    copy = pack(tmp_path / "fer", ("folder", "zip", "tar")[seed % 3])
    assert_read(Fer2013, copy, faces, bad, ("train", "public_test", third))
    if form is not csv and label in ("name", "class label") and {"public test", "private_test"}.isdisjoint(words):
        assert_read(Folder, copy, faces, bad, ("train", "validation", "test"))


def assert_read(
    cls: type[FaceBuilder], copy: Path, faces: list[Drawn], bad: dict[int, str], splits: tuple[str, ...]
) -> None:
    builder = cls(data_dir=str(copy.parent / "no data"))
    found = {}
    for name, split in builder.plan(open_source(copy)).splits.items():
        for picture in split.pictures():
            try:
                pixels = np.asarray(pictures.decode(picture.image)).tobytes()
            except pictures.BadPicture as error:  # as `prepare` does
                builder.skipped.add(picture.name, str(error))
                continue
            assert pixels not in found
            found[pixels] = (name, picture.label)
    good = [one for one in faces if not one.bad]
    assert found == {face(one.number).tobytes(): (splits[one.place], FER2013_CODES[one.code]) for one in good}
    assert {entry["path"].removeprefix("deep/") for entry in builder.skipped.entries} == set(bad.values())


OTHER_NUMBERS = {
    "csv": {"ckextended.csv": table([row(n, n % 8, "Training") for n in range(16)] + [row(20, 0, "PrivateTest")])},
    "folders": {f"{split}/happy/{n}.png": encode(face(n)) for n, split in enumerate(("train", "val", "test"))},
}


@pytest.mark.parametrize("form", OTHER_NUMBERS)
def test_a_copy_of_other_pictures_is_not_comparable(form: str, tmp_path: Path) -> None:
    source = write(tmp_path / "fer", OTHER_NUMBERS[form])
    report = prepare("fer2013", str(source), data_dir=str(tmp_path / "data"))
    assert "may be compared" not in report["protocol"]
    assert "compare only with results on the same files" in report["protocol"]
    assert any("the complete set has 28,709" in note for note in report["notes"])
    assert len(report["skipped"]) == 2 * (form == "csv")  # contempt, which FER-2013 has not


def test_labelled_and_unlabelled_tables_of_splits(tmp_path: Path) -> None:
    rows = {name: "\n".join(["emotion,pixels", row(n, n, None)]) for n, name in enumerate(("train", "val", "test"))}
    labelled = write(tmp_path / "one", {f"{name}.csv": text for name, text in rows.items()})
    plan = Fer2013(data_dir=str(tmp_path / "no data")).plan(open_source(labelled))
    assert list(plan.splits) == ["train", "public_test", "private_test"]
    assert not any("no labels" in note for note in plan.notes)
    write(labelled, {"test.csv": "pixels\n1 2 3"})
    plan = Fer2013(data_dir=str(tmp_path / "no data")).plan(open_source(labelled))
    assert list(plan.splits) == ["train", "public_test"]
    assert "test.csv carries no labels and was not used" in plan.notes


def test_a_refusal_shows_the_header_and_the_first_bad_row(tmp_path: Path) -> None:
    source = write(tmp_path / "fer", {"mine.tsv": "Emotion\tPixels\tUsage\nsad\t1 2\ttrain\nsad\t3\ttrain"})
    with pytest.raises(DataError) as error:
        Fer2013(data_dir=str(tmp_path / "no data")).plan(open_source(source))
    assert "mine.tsv: no usable row among 2 (the first: row 0: 2 pixels, expected 2,304)" in str(error.value)
    assert str(error.value).endswith("its header has: 'Emotion', 'Pixels', 'Usage'")
