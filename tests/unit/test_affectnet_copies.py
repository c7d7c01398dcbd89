"""Copies of AffectNet that differ from the releases: other numbers, tables of ids, other paths and spellings."""

from pathlib import Path
from typing import Any

import pytest

from data_pipelines.common.errors import DataError
from data_pipelines.prepare import prepare
from tests.disk import write
from tests.unit.test_affectnet_builder import (
    CODES,
    FOLDERS,
    SUBSET,
    Files,
    build,
    labels,
    make_plan,
    newer,
    newer_names,
    older,
    older_names,
    subset,
)
from tests.unit.test_rafdb_builder import encode, stored

ALPHABETICAL = ("anger", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise")


def test_numbers_in_another_order_are_given_by_the_user(tmp_path: Path) -> None:
    files: Files = {f"train/{n}/{ALPHABETICAL[n]}_{n}.jpg": encode(n, "JPEG") for n in range(8)}
    source = str(write(tmp_path / "affect", files))
    assumed = prepare("affectnet", source, data_dir=str(tmp_path / "assumed"))
    (note,) = (note for note in assumed["notes"] if "--codes" in note)
    shown = [f"train/{n}/{ALPHABETICAL[n]}_{n}.jpg ({n}: {CODES[n]})" for n in (0, 3, 6)]
    assert ", ".join(shown) in note
    report = prepare("affectnet", source, data_dir=str(tmp_path / "data"), codes=ALPHABETICAL)
    found = stored("affectnet", tmp_path, "train").values()
    assert [label for label, _ in found] == sorted(CODES) and [n for _, n in found] == list(range(8))
    assert report["notes"][0].startswith("numbers are classes as --codes has them: 0 anger, 1 contempt")


@pytest.mark.parametrize("numbered", [False, True])
def test_table_of_ids(numbered: bool, tmp_path: Path) -> None:
    rows = [f"{n},{n % 8 if numbered else FOLDERS[n % 8]}" for n in range(8)]
    files: Files = {f"images/{n}.png": encode(n) for n in range(8)} | {
        "train.csv": "\n".join(["id,label", *rows, "9,1"])
    }
    source = str(write(tmp_path / "affect", files))
    report = prepare("affectnet", source, data_dir=str(tmp_path / "data"))
    assert [label for label, _ in stored("affectnet", tmp_path, "train").values()] == list(CODES)
    assert report["skipped"] == [{"path": "train.csv row 8", "why": "no picture is called '9', or several are"}]
    assert "Kaggle variant with splits of its own" in report["protocol"]
    assert any("numbers were taken for AffectNet's codes" in note for note in report["notes"]) == numbered
    call = lambda: prepare("affectnet", source, data_dir=str(tmp_path / "two"), codes=ALPHABETICAL)  # noqa: E731
    if numbered:
        assert call()["notes"][0].startswith("numbers are classes as --codes has them: 0 anger")
    else:
        with pytest.raises(DataError, match=r"--codes anger,.*: no class here is a number"):
            call()


@pytest.mark.parametrize("change", [lambda path: f"Manually_Annotated_Images\\{path}", lambda path: f"./a/b/{path}"])
def test_paths_with_a_prefix_or_backslashes(change: Any, tmp_path: Path) -> None:
    old = older()
    for name in ("training.csv", "validation.csv"):
        rows = [text.split(",", 1) for text in str(old[name]).splitlines()]
        old[name] = "\n".join(
            ",".join([change(path).replace("/", "\\") if "/" in path else path, rest]) for path, rest in rows
        )
    plan = make_plan(write(tmp_path / "affect", old), tmp_path)
    for split in ("train", "validation"):
        assert labels(plan, split) == {name: label for name, (label, _) in older_names(split).items()}
    files = subset()
    head, *rows = str(files["labels.csv"]).splitlines()
    cut = [text.split(",") for text in rows]
    files["labels.csv"] = "\n".join([head, *(",".join([n, change(path), *rest]) for n, path, *rest in cut)])
    plan = make_plan(write(tmp_path / "subset", files), tmp_path)
    assert labels(plan, "train") == {name: label for name, (label, _) in SUBSET.items()}


def test_capitalised_folders_of_the_newer_release(tmp_path: Path) -> None:
    plan = make_plan(write(tmp_path / "affect", {name.title(): data for name, data in newer().items()}), tmp_path)
    for split in ("train", "validation"):
        assert labels(plan, split) == {name.title(): label for name, (label, _) in newer_names(split).items()}


@pytest.mark.parametrize("with_manual", [False, True])
def test_automatically_annotated_table(with_manual: bool, tmp_path: Path) -> None:
    files = older()
    automatic = {
        name.replace("Manually", "Automatically"): encode(31) for name in files if name.startswith("Manually")
    } | {"automatically_annotated.csv": str(files["training.csv"]).replace(",6,", ",5,")}
    if not with_manual:
        del files["training.csv"]
    report = build(write(tmp_path / "affect", files | automatic), tmp_path)
    brightness = {n for _, n in stored("affectnet", tmp_path, "train").values()}
    assert brightness == ({*range(1, 9)} if with_manual else {31})
    note = "automatically_annotated.csv was not used: there is another train table"
    assert (note in report["notes"]) == with_manual
    said = any("were given by a program, not by people" in note for note in report["notes"])
    assert said != with_manual
