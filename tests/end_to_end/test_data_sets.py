"""Each data set's config, from the set's own layout on disk to an evaluation, with a network small enough for tests."""

import csv
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines import prepare
from data_pipelines.common.errors import DataError
from expressnet_jax.config import files as config_files
from expressnet_jax.runs import data as datas
from expressnet_jax.runs import folder as run_folder
from tests.conftest import TINY, expressnet

EMOTIONS = ("anger", "contempt", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
RAFDB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # 1 to 7
AFFECTNET = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")  # 0 to 7
FERPLUS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
SMALL = {
    "model.image_size": 32, "model.cnnfe1.kernels": "(5,3)", "model.cnnfe1.filters": "(4,8)",
    "model.cnnfe2.kernels": "(3,3)", "model.cnnfe2.filters": "(4,8)", "model.resnet.stem_filters": 4,
    "model.resnet.blocks": "(1,1)", "model.resnet.filters": "(4,8)", "model.cnnfe1_width": 16, "model.fuse_width": 16,
    "moe.hidden": 16, "batch_size": 8, "total": "2steps", "log_every": "1steps", "schedule.warmup": "0steps",
}  # fmt: skip


def write(path: Path, seed: int, side: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(path)


def table(rows: list[list[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def rafdb(root: Path) -> None:
    lines = []
    for split, each in (("train", 6), ("test", 1)):
        for number in range(7 * each):
            lines.append(f"{split}_{number:05}.jpg {number % 7 + 1}")
            write(root / f"basic/Image/aligned/{split}_{number:05}_aligned.jpg", number, 40)
    (root / "basic/EmoLabel").mkdir()
    (root / "basic/EmoLabel/list_patition_label.txt").write_text("\n".join(lines))


def affectnet(root: Path) -> None:
    head = ["subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks", "expression"]
    rows = {name: [[*head, "valence", "arousal"]] if name == "training" else [] for name in ("training", "validation")}
    for name, each in (("training", 6), ("validation", 1)):
        for number in range(8 * each):
            path = f"{number % 5}/{name}{number}.png"
            write(root / "Manually_Annotated_Images" / path, number, 30 + number)  # of every size
            rows[name].append([path, 0, 0, 20, 20, "1;2", number % 8, 0.1, 0.1])
        (root / f"{name}.csv").write_text(table(rows[name]))


def affectnet_subset(root: Path) -> None:
    rows: list[list[object]] = [["", "pth", "label", "relFCs"]]
    for number in range(80):
        path = f"{AFFECTNET[number % 8]}/image{number:07}.jpg"
        write(root / path, number, 48)
        rows.append([number, path, AFFECTNET[number % 8], 0.9])
    (root / "labels.csv").write_text(table(rows))


def ferplus(root: Path) -> None:
    rows: list[list[object]] = [["Usage", "Image name", *FERPLUS]]
    for number in range(48):
        usage, folder = [("Training", "Train"), ("PublicTest", "Valid"), ("PrivateTest", "Test")][
            max(0, number // 8 - 3)
        ]
        write(root / f"FER2013{folder}/fer{number:07}.png", number, 48)
        votes = [0] * 10
        votes[number % 8], votes[(number + 1) % 8] = 7, 3
        rows.append([usage, f"fer{number:07}.png", *votes])
    (root / "fer2013new.csv").write_text(table(rows))


SEVEN = [name for name in EMOTIONS if name != "contempt"]


@pytest.mark.parametrize(
    ("config", "make", "evaluated", "examples", "classes"),
    [
        ("rafdb", rafdb, "rafdb/test", 7, SEVEN),
        ("rafdb:paper", rafdb, "rafdb/test", 7, SEVEN),
        ("affectnet", affectnet, "affectnet/validation", 8, list(EMOTIONS)),
        ("affectnet:paper", affectnet_subset, "affectnet/train (held out)", 14, SEVEN),
        ("ferplus", ferplus, "ferplus/private_test", 8, list(EMOTIONS)),
    ],
)
def test_from_a_layout_on_disk_to_an_evaluation(config, make, evaluated, examples, classes, tmp_path):
    make(tmp_path / "mine")
    name, where = config.partition(":")[0], ["--data_dir", tmp_path / "data"]
    done = expressnet("data", "prepare", name, "--from", tmp_path / "mine", *where, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["skipped"] == [], done.stderr
    small = [f"--config.{key}={value}" for key, value in SMALL.items()]
    done = expressnet("train", f"--config={config}", "--workdir", tmp_path / "run", *where, *small)
    assert done.returncode == 0, done.stderr
    done = expressnet("evaluate", "--workdir", tmp_path / "run", *where, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["split"], result["examples"], result["classes"]) == (evaluated, examples, classes)
    assert (result["depth"]["votes"] is not None) == (name == "ferplus")
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert 0 <= record["data_wait"] <= 1


def test_own_classes_with_a_validation_split_and_a_run_that_remembers_where_its_data_are(tmp_path):
    for split in ("train", "val", "test"):
        for number in range(8):
            write(tmp_path / "own" / split / ("alert", "sleepy")[number % 2] / f"{number}.png", number, 40)
    data, run = tmp_path / "data", tmp_path / "run"
    command = ("data", "prepare", "folder", "--from", tmp_path / "own", "--name", "mine", "--data_dir", data)
    assert expressnet(*command).returncode == 0
    settings = {**SMALL, "batch_size": 1, "data.name": "mine", "data.test_split": "test"}
    given = [f"--config.{key}={value}" for key, value in settings.items()]
    command = ("train", "--config=fer2013_small", "--workdir", run, "--data_dir", data, *given)
    refused = expressnet(*command)
    assert refused.returncode == 1 and "--config.data.classes=alert,sleepy" in refused.stderr and not run.exists()
    command = (*command, "--config.data.classes=alert,sleepy")
    trained = expressnet(*command)
    assert trained.returncode == 0 and "8 examples to train on, 8 to validate on" in trained.stderr
    assert "validating on mine/validation; --config.data.validation_split= holds out" in trained.stderr
    config = json.loads((run / "config.json").read_text())
    assert config["data"]["validation_split"] == "validation"
    assert json.loads((run / "data_dir.json").read_text()) == {"data_dir": str(data)}
    # The validation split of a run that has begun stays what it was, though the setting leaves it open.
    config["data"]["validation_split"] = ""
    assert run_folder.changes(run, config_files.from_dict(config))[0].startswith("data.validation_split: 'validation'")
    config["data"]["validation_split"] = "auto"
    assert run_folder.changes(run, config_files.from_dict(config)) == []
    evaluated = expressnet("evaluate", "--workdir", run, "--json")
    assert json.loads(evaluated.stdout)["split"] == "mine/test" and json.loads(evaluated.stdout)["examples"] == 8
    audited = expressnet("data", "audit", run, "--json")
    assert json.loads(audited.stdout)["all"]["classes"] == {"alert": 12, "sleepy": 12}
    data.rename(tmp_path / "moved")
    gone = expressnet("evaluate", "--workdir", run)
    assert gone.returncode == 1 and f"data in {data}, which is gone; say where they are: --data_dir DIR" in gone.stderr
    assert expressnet("evaluate", "--workdir", run, "--data_dir", tmp_path / "moved").returncode == 0


def test_names_that_config_and_data_set_do_not_share_are_said(data_dir):
    config = config_files.load(TINY)
    names = config.data.classes

    def remarks(**changed):
        data = dataclasses.replace(config.data, **changed)
        return datas.remarks(dataclasses.replace(config, data=data), str(data_dir))

    assert remarks() == remarks(test_split="test+validation") == []
    (said,) = remarks(classes=names[:-1])
    assert f"pictures of {names[-1]} are left out" in said
    (said,) = remarks(classes=(*names, "zzz"))
    assert "has no pictures of zzz" in said
    with pytest.raises(DataError, match=f"has no class '{names[0][:-1]}'; did you mean {names[0]}\\? It has"):
        remarks(classes=(names[0][:-1], *names[1:]))
    (said,) = remarks(test_split="tset")
    assert "has no split 'tset' (data.test_split); `evaluate` will need --split of" in said and "mean test?" in said


def test_a_data_set_of_one_s_own_that_is_not_there_is_looked_for_by_name(data_dir, tmp_path):
    with pytest.raises(DataError, match=rf"no data set 'syntetic_faces' is prepared in {data_dir} .* did you mean"):
        prepare.read_info("syntetic_faces", str(data_dir))
    with pytest.raises(
        DataError, match=rf"'mine' is prepared in {tmp_path}/no \(--data_dir\), which is no folder; known: fer2013"
    ):
        prepare.read_info("mine", str(tmp_path / "no"))
